"""Files that are whole or not there."""

import errno
import os
import time

import pytest

from metarun.config import ConfigError
from metarun.files import ABANDONED, WRITING, json_lines, read_results, replacing


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as file:
        file.write(b"old")

    def half():
        with replacing(path) as file:
            file.write(b"half of it")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert path.read_bytes() == b"old"
    assert [path.name for path in path.parent.iterdir()] == ["a.txt"]


def test_the_file_of_a_full_disk_is_named(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space left on device") as caught, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_removed_by_the_next_writer_and_what_others_are_writing_is_not(tmp_path):
    old, fresh, other = tmp_path / f".b.txt.1{WRITING}", tmp_path / f".c.txt.2{WRITING}", tmp_path / "d.txt"
    for path in (old, fresh, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, time.time() - ABANDONED - 60))
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, "a.txt", "d.txt"]


def test_what_was_there_is_kept_where_that_is_asked_for(tmp_path):
    path, before = tmp_path / "last", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        with replacing(path, before) as file:
            file.write(content)
    assert (before.read_bytes(), path.read_bytes()) == (b"2", b"3")


def test_lines_that_are_not_whole_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert json_lines(path) == []
    path.write_bytes(b'{"step": 1}\n\xff\xfe\x00\n[2]\n{"step": 2}\n{"st')
    assert json_lines(path) == [{"step": 1}, {"step": 2}]


def test_results_of_another_version_are_refused_in_one_line(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('{"schema": 3, "status": "finished"}')
    with pytest.raises(ConfigError, match=r"results.json: expected results of version 1 or 2, found 3; use the metarun"):
        read_results(path)
    path.write_text('{"half')
    assert read_results(path) is None
