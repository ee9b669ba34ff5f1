"""Checkpoints: whole, with one in reserve."""

import resource

import pytest
import torch

from metarun.config import ConfigError
from metarun.trainer import checkpoint
from metarun.trainer.checkpoint import Damaged, load, repair, save


@pytest.fixture
def two(tmp_path):
    """Paths of the last checkpoint and of the one before."""
    last, before = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        save(last, {"step": step}, before)
    return last, before


def test_the_one_before_is_kept(two):
    assert [load(path) for path in two] == [{"schema": 1, "step": 2}, {"schema": 1, "step": 1}]


@pytest.mark.parametrize("damage", [b"nothing of the kind", b"", "half"])
def test_a_damaged_one_gives_way_to_the_one_before(two, damage, caplog):
    last, before = two
    bad = last.read_bytes()[:-200] if damage == "half" else damage
    last.write_bytes(bad)
    repair(last, before)
    assert load(last)["step"] == 1
    assert (last.parent / "damaged_last.pt").read_bytes() == bad
    (record,) = caplog.records
    assert "last.pt: not a readable checkpoint" in record.getMessage()
    assert "going on from the checkpoint before it" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_kill_between_two_renames_costs_nothing_more(two, caplog):
    last, before = two
    last.unlink()
    repair(last, before)
    assert load(last)["step"] == 1
    assert "last.pt is missing; going on" in caplog.text


def test_two_damaged_ones_are_an_error_and_stay(two):
    for path in two:
        path.write_bytes(b"no")
    with pytest.raises(Damaged, match=r"previous\.pt: not a readable checkpoint"):
        repair(*two)
    assert [path.read_bytes() for path in two] == [b"no", b"no"]


def test_another_version_is_one_line(two, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    with pytest.raises(ConfigError, match=r"last\.pt: a checkpoint of version 1, and this metarun reads version 2"):
        repair(*two)


def test_no_code_is_read(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"a": print}, path)
    with pytest.raises(Damaged):
        load(path)


def test_a_full_disk_is_named_and_changes_nothing(two):
    last, before = two
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save(last, {"weights": torch.zeros(100_000)}, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(last)
    assert [load(path)["step"] for path in two] == [2, 1]
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.pt", "previous.pt"]
