"""Checkpoints: the last one and the one before, so that a damaged file costs minutes and not days."""

import logging
from pathlib import Path
from typing import Any

import torch

from metarun.config import ConfigError
from metarun.files import replacing

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of checkpoints; those of another version are refused in one line."""


class Damaged(ConfigError):
    """A checkpoint cannot be read."""


def save(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Write ``content`` so that a kill at any moment leaves the old file or the new one; the old one stays as ``previous``.

    Raises:
        OSError: with the name ``path``; what was there is still there.
    """
    with replacing(path, previous) as file:
        try:
            torch.save({"schema": SCHEMA, **content}, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def repair(path: Path, previous: Path) -> dict[str, Any] | None:
    """Where ``path`` is damaged, or missing after a kill, put the ``previous`` checkpoint in its place → what is there then.

    Raises:
        Damaged: neither can be read; both stay as they are.
    """
    try:
        found = load(path)
        if found is not None:
            return found
        found = load(previous)
        if found is None:
            return None
        log.warning("%s is missing; going on from the checkpoint before it", path)
    except Damaged as error:
        if not previous.is_file():
            raise
        found = load(previous)
        aside = path.with_name(f"damaged_{path.name}")
        path.replace(aside)
        log.warning("%s; going on from the checkpoint before it, the damaged one is now %s", error, aside.name)
    previous.replace(path)
    return found


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU, or None where there is nothing. Only tensors and plain values are read, never code.

    Raises:
        Damaged: it cannot be read.
        ConfigError: it is of another version.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch, zipfile or pickle raise
        raise Damaged(f"{path}: not a readable checkpoint ({_first_line(error)})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path}: not a checkpoint of metarun")
    version = content.get("schema", SCHEMA)  # the best weights of the first version said none
    if version != SCHEMA:
        raise ConfigError(f"{path}: a checkpoint of version {version}, and this metarun reads version {SCHEMA}")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
