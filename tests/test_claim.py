"""One process at a time: on this machine by its lock, on others by their signs of life."""

import errno
import json
import threading

import pytest
from filelock import FileLock

from metarun import claim
from metarun.claim import OWNER, Busy, claimed
from metarun.config import ConfigError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in {"BEAT": 0.02, "PATIENCE": 5.0, "SETTLING": 0.05}.items():
        monkeypatch.setattr(claim, name, seconds)


def elsewhere(folder, **more):
    """An owner on another machine."""
    owner = {"host": "node7", "pid": 12, "machine": "node7 boot", "token": "theirs", "beats": 0}
    (folder / OWNER).write_text(json.dumps(owner | more))


def owner(folder):
    return json.loads((folder / OWNER).read_text())


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path):
    with claimed(tmp_path), pytest.raises(Busy, match=r"another process is at work on this run \(.+, process \d+\)"):
        claimed(tmp_path).__enter__()
    with claimed(tmp_path):
        pass
    assert not (tmp_path / OWNER).exists()


def test_who_is_alive_elsewhere_is_seen_by_the_signs_of_life(tmp_path, monkeypatch):
    """The other machine's lock is not seen here: the file system's locks do not hold."""
    monkeypatch.setattr(claim, "_machine", lambda: "here" if threading.current_thread() is here else "node7")
    here = None
    with claimed(tmp_path):
        here = threading.main_thread()
        (tmp_path / claim.LOCK).unlink()
        with pytest.raises(Busy):
            claimed(tmp_path).__enter__()


def test_who_died_elsewhere_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "PATIENCE", 0.15)
    elsewhere(tmp_path)
    with claimed(tmp_path) as mine:
        assert owner(tmp_path)["token"] == mine.token
        mine.check()


def test_who_died_here_is_followed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "PATIENCE", 1e9)
    elsewhere(tmp_path, machine=claim._machine())
    with claimed(tmp_path):
        pass


def test_who_was_taken_for_dead_writes_no_more(tmp_path):
    with claimed(tmp_path) as mine:
        elsewhere(tmp_path)
        with pytest.raises(Busy, match="node7, process 12"):
            mine.check()
    assert owner(tmp_path)["token"] == "theirs"  # noqa: S105


def test_a_folder_that_vanished_is_said(tmp_path):
    folder = tmp_path / "run"
    with claimed(folder) as mine:
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match="run: the run directory has been removed"):
            mine.check()


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def without(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", without)
    with claimed(tmp_path) as mine:
        mine.check()
        assert owner(tmp_path)["token"] == mine.token
    assert not list(tmp_path.glob("*.writing"))


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def without(self, timeout):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", without)
    with claimed(tmp_path), pytest.raises(Busy):
        claimed(tmp_path).__enter__()
    monkeypatch.setattr(FileLock, "acquire", lambda self, timeout: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only", "x")))
    with pytest.raises(OSError, match="Read-only"):
        claimed(tmp_path).__enter__()
