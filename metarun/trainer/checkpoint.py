"""Checkpoints: the last one and the one before, so that a damaged file costs minutes and not days."""

import hashlib
import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from metarun.config import ConfigError, first_line
from metarun.files import replacing

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of checkpoints; other versions are refused in one line."""
SEAL = b"blake2b:"
"""What begins the comment at the end of the zip file, which holds the digest of all that is before it: torch checks none."""
SEALED = len(SEAL) + 32


class Damaged(ConfigError):
    """A checkpoint cannot be read."""


def save(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Write ``content`` so that a kill at any moment leaves the old file or the new one; the old one stays as ``previous``.

    Raises:
        OSError: with the name ``path``; what was there is still there.
    """
    written = io.BytesIO()
    torch.save({"schema": SCHEMA, **content}, written)
    with replacing(path, previous) as file:
        file.write(_sealed(written.getvalue()))


def repair(path: Path, previous: Path) -> dict[str, Any] | None:
    """Replace a checkpoint that is damaged, or missing after a kill, by the ``previous`` one → the content of ``path`` then.

    Raises:
        Damaged: neither can be read; both stay as they are.
    """
    try:
        content = load(path)
        if content is not None:
            return content
        content = load(previous)
        if content is None:
            return None
        log.warning("%s is missing; going on from the checkpoint before it", path)
    except Damaged as error:
        if not previous.is_file():
            raise
        content = load(previous)
        aside = path.with_name(f"damaged_{path.name}")
        path.replace(aside)
        log.warning("%s; going on from the checkpoint before it, the damaged one is now %s", error, aside.name)
    previous.replace(path)
    return content


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU; None if there is no file. Only tensors and plain values are read, never code.

    Raises:
        Damaged: it cannot be read.
        ConfigError: it is of another version.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(io.BytesIO(_checked(path.read_bytes())), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch, zipfile or pickle raise
        raise Damaged(f"{path}: not a readable checkpoint ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path}: not a checkpoint of metarun")
    version = content.get("schema", SCHEMA)  # the best weights of the first version said none
    if version != SCHEMA:
        raise ConfigError(f"{path}: a checkpoint of version {version}, and this metarun reads version {SCHEMA}")
    return content


def _sealed(content: bytes) -> bytes:
    """A zip file with its own digest as its comment, which readers of zip files pass over."""
    if content[-2:] != b"\0\0":  # the length of the comment, which torch leaves out
        raise ValueError("expected a zip file without a comment")
    content = content[:-2] + SEALED.to_bytes(2, "little")
    return content + SEAL + _digest(content)


def _checked(content: bytes) -> bytes:
    """The content as it is, once its digest is found right; a file of a version that wrote none by its zip file's checksums.

    Raises:
        ValueError: it has changed since it was written.
        zipfile.BadZipFile: it is no zip file.
    """
    if content[-SEALED:].startswith(SEAL):
        if content[-SEALED:] != SEAL + _digest(content[:-SEALED]):
            raise ValueError("its content has changed since it was written")
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"its content has changed since it was written: {bad}")
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()
