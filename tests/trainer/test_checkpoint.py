"""Checkpoints: whole, with one in reserve."""

import io
import random
import resource
import zipfile
from unittest.mock import Mock

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
    begin = f"{last}: not a readable checkpoint ("
    end = "); going on from the checkpoint before it, the damaged one is now damaged_last.pt"
    assert record.getMessage().startswith(begin)
    assert record.getMessage().endswith(end)
    assert len(record.getMessage()) > len(begin + end) + 5
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("former", [False, True])
def test_no_flipped_bit_is_read_as_something_else(tmp_path, former):
    path, content = tmp_path / "last.pt", {"weights": torch.arange(300.0), "step": 7, "best": [(0.5, 3)]}
    if former:
        torch.save({"schema": 1, **content}, path)
    else:
        save(path, content)
    whole, draw, messages = path.read_bytes(), random.Random(0), []  # noqa: S311 - not cryptography
    for _ in range(300):
        bit = draw.randrange(8 * len(whole))
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            found = load(path)
        except Damaged as error:
            messages.append(str(error))
            continue
        assert torch.equal(found["weights"], content["weights"]), bit
        assert {**found, "weights": 0} == {"schema": 1, **content, "weights": 0}
    assert not any("\n" in message for message in messages)
    assert len(messages) > (200 if former else 290)  # the rest lies between the entries of the zip file, or in the seal's own name


def test_a_checkpoint_is_a_file_that_torch_reads(tmp_path):
    save(tmp_path / "last.pt", {"weights": torch.ones(3)})
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["weights"], torch.ones(3))


def test_a_checkpoint_is_a_zip_file_whose_comment_is_its_digest(two):
    last, _ = two
    with zipfile.ZipFile(last) as archive:
        assert archive.testzip() is None
        assert archive.comment == last.read_bytes()[-40:]
    assert archive.comment.startswith(b"blake2b:")
    assert last.read_bytes()[-42:-40] == b"\x28\0"  # its length, little-endian
    assert last.read_bytes().count(b"PK\5\6") == 1
    unsealed = io.BytesIO()
    torch.save({"schema": 1, "step": 2}, unsealed)  # nothing is lost, and the comment's length alone is changed
    assert len(unsealed.getvalue()) + 40 == last.stat().st_size
    with pytest.raises(ValueError, match=r"^expected a zip file without a comment$"):
        checkpoint._sealed(last.read_bytes())


def test_a_checkpoint_of_a_gpu_is_read_on_the_cpu(two, monkeypatch):
    own, places = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *given, **keys: (places.append(keys["map_location"]), own(*given, **keys))[1])
    load(two[0])
    assert places == ["cpu"]


def test_a_kill_between_two_renames_costs_nothing_more(two, caplog):
    last, before = two
    last.unlink()
    repair(last, before)
    assert load(last)["step"] == 1
    assert [record.getMessage() for record in caplog.records] == [f"{last} is missing; going on from the checkpoint before it"]


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


def test_why_a_checkpoint_cannot_be_read_is_one_short_line(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    torch.save({"step": 3}, path)
    for error, said in ((KeyError(), "KeyError"), (ValueError("x" * 200 + "\nand more"), "x" * 160)):
        monkeypatch.setattr(torch, "load", Mock(side_effect=error))
        with pytest.raises(Damaged) as caught:
            load(path)
        assert str(caught.value) == f"{path}: not a readable checkpoint ({said})"
    monkeypatch.undo()
    torch.save([1, 2], path)
    with pytest.raises(Damaged) as caught:
        load(path)
    assert str(caught.value) == f"{path}: not a checkpoint of metarun"
    torch.save({"step": 3}, path)
    assert load(path) == {"step": 3}  # the best weights of the first version name none


def test_what_fails_beside_the_disk_is_not_hidden(two, monkeypatch):
    monkeypatch.setattr(torch, "save", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        save(two[0], {"step": 3}, two[1])
    assert [load(path)["step"] for path in two] == [2, 1]


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
