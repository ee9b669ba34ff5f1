"""Atomic files: written under a temporary name, then renamed. Imports no torch."""

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
"""Version of results.json that is written. Version 2 added `tested`."""
READABLE = (1, SCHEMA)
"""Versions of results.json that can be read."""
WRITING = ".writing"
"""Suffix of unfinished files. A killed process leaves them behind; a later writer to the folder removes them."""
ABANDONED = 3600.0
"""Seconds without a change after which an unfinished file is considered abandoned."""


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file that replaces ``path`` when the block ends without an error, and is discarded otherwise.

    At any moment ``path`` has either its former content or the complete new content, even with several processes writing at once.
    The folder is created if necessary. With ``previous``, the former file is kept under that name.

    Raises:
        OSError: naming ``path``, if the disk is full or the folder is not writable.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{WRITING}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # without it a power failure after the rename could leave an empty file
        if previous is not None and path.is_file():
            path.replace(previous)  # a kill between the two renames leaves only the previous file
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; incomplete lines, left by a kill or a full disk, are skipped."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [parsed for line in lines if (parsed := _parsed(line)) is not None]


def read_results(path: Path) -> dict[str, Any] | None:
    """The content of a results.json; None if it does not exist, or is damaged.

    Raises:
        ConfigError: it has an unsupported version.
    """
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(results, dict):
        return None
    version = results.get("schema", 1)
    if version not in READABLE:
        readable = " or ".join(map(str, READABLE))
        raise ConfigError(f"{path}: expected results of version {readable}, found {version}; use the metarun that wrote them")
    return results


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _sweep(folder: Path) -> None:
    """Remove unfinished files in ``folder`` that have not changed for an hour."""
    for left in folder.glob(f".*{WRITING}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
