"""What a disk does to a run: it is full, a file is damaged. One line, nothing half there, and the same bytes in the end."""

import json
import os
import signal

import pytest
import torch
from runs import assert_same, run_in, weights

from metarun.config import ConfigError
from metarun.mistakes import line_and_status
from metarun.signals import Interrupted
from metarun.tracking import RunFolder
from metarun.trainer.draws import Draws

KEYS = ("trainer.checkpoint_every=0", "trainer.iterations=20", "trainer.validate_every=10", "trainer.log_every=5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has happened to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, run_in(path, *KEYS)


def stop_at(step, patch):
    """Let a signal come in this update."""

    def reseed(draws, at, *purpose, own=Draws.reseed):
        if at == step and not purpose:
            signal.raise_signal(signal.SIGTERM)
        own(draws, at, *purpose)

    patch.setattr(Draws, "reseed", reseed)


def assert_as(whole, path, found):
    assert found["test"] == whole[1]["test"]
    assert_same(weights(path), weights(whole[0]))
    lines = [[json.loads(line) for line in (of / "metrics.jsonl").read_text().splitlines()] for of in (path, whole[0])]
    plain = [[{k: v for k, v in line.items() if not k.startswith("time/")} for line in of] for of in lines]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("name", ["last.pt", "metrics.jsonl", "test.npz", "results.json"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(whole, name, tmp_path, monkeypatch):
    """The third file of this name that is written does not fit."""
    path, tries = tmp_path / "run", []
    write = {"metrics.jsonl": "os.fsync"}.get(name, "pathlib.Path.replace")
    own = os.fsync if write == "os.fsync" else type(path).replace

    def full(*given):
        what = os.readlink(f"/proc/self/fd/{given[0]}") if write == "os.fsync" else str(given[-1])
        if what.endswith(name):
            tries.append(what)
            if len(tries) == (3 if name in ("last.pt", "metrics.jsonl") else 1):
                raise OSError(28, "No space left on device")
        return own(*given)

    with monkeypatch.context() as patch:
        patch.setattr(write, full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            run_in(path, *KEYS)
    line, status = line_and_status(caught.value, [])
    assert status == 2
    assert line.endswith("No space left on device")
    assert "\n" not in line
    assert name in line or write == "os.fsync"
    assert RunFolder(path).results() is None
    assert not list(path.rglob("*.writing"))
    assert_as(whole, path, run_in(path, *KEYS))


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, damage, tmp_path, monkeypatch, caplog):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(15, patch)
        with pytest.raises(Interrupted):
            run_in(path, *KEYS)
    last = RunFolder(path).last
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[: last.stat().st_size // 2] if damage == "cut" else b"\0" * 5000)
    found = run_in(path, *KEYS)
    assert "going on from the checkpoint before it" in caplog.text
    assert found["train"]["resumed_at"] == [15]  # and not 16
    assert_as(whole, path, found)


def test_damaged_records_are_made_again_or_left_out(whole, tmp_path):
    """What is beside the checkpoint is no reason to stop."""
    path = tmp_path / "run"
    run_in(path, *KEYS)
    folder = RunFolder(path)
    folder.results_path.write_text('{"half')
    (path / "test.npz").write_bytes(b"PK\3\4")
    folder.best.write_bytes(b"")
    folder.metrics_path.write_bytes(b"\xff\xfe\n" + folder.metrics_path.read_bytes() + b'{"step": 4')
    assert_as(whole, path, run_in(path, *KEYS))


def test_a_folder_that_vanishes_in_a_run_ends_it(tmp_path, monkeypatch):
    path = tmp_path / "run"

    def reseed(draws, step, *purpose, own=Draws.reseed):
        if step == 5 and path.is_dir():
            path.rename(tmp_path / "gone")
        own(draws, step, *purpose)

    monkeypatch.setattr(Draws, "reseed", reseed)
    with pytest.raises(ConfigError, match="run: the run directory has been removed"):
        run_in(path, *KEYS)
    assert not path.exists()


def test_deterministic_runs_are_the_same_and_leave_torch_as_it_was(whole, tmp_path):
    asked = []
    for name in ("a", "b"):
        found = run_in(tmp_path / name, *KEYS, "trainer.deterministic=true")
        asked.append(torch.are_deterministic_algorithms_enabled())
        assert_as((tmp_path / "a", found), tmp_path / name, found)
    run_in(tmp_path / "c", "trainer.iterations=1")
    assert [*asked, torch.are_deterministic_algorithms_enabled()] == [True, True, False]
