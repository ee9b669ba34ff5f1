"""Files that are whole or not there: written beside, then renamed. Imports no torch."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from metarun.config import ConfigError

SCHEMA = 2
"""Version of results.json as written. Version 2 added `tested`."""
READABLE = (1, SCHEMA)
"""Versions of results.json that are read; any other is refused in one line."""
WRITING = ".writing"
"""How the names of unfinished files end. A killed process leaves them; whoever writes to the folder later removes them."""
ABANDONED = 3600.0
"""Seconds without a change after which such a file in a folder that several processes write to has no owner."""


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends without an error, and is not there otherwise.

    Whatever happens, ``path`` is at any moment what it was before or all of what was written. Any number of processes may do
    this at once. The folder is made where there is none. With ``previous``, what ``path`` was is kept under that name.

    Raises:
        OSError: with the name ``path``: the disk is full, the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{WRITING}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # renamed before its content has reached the disk, a power cut would leave it empty
        if previous is not None and path.is_file():
            path.replace(previous)  # a kill between the two leaves the previous one alone
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of a line each, those that are whole: a kill or a full disk leaves half a line at the end."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [found for line in lines if (found := _parsed(line)) is not None]


def read_results(path: Path) -> dict[str, Any] | None:
    """What a results.json says, or None where there is none or it is damaged.

    Raises:
        ConfigError: it is of another version.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    version = found.get("schema", 1)
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise ConfigError(f"{path}: results of version {version}, and this metarun reads {known}; use the metarun that wrote them")
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed left half written in ``folder``: what nobody has written to for an hour."""
    for left in folder.glob(f".*{WRITING}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
