"""Files that are whole or not there: written beside, then renamed."""

import os
from pathlib import Path
from typing import Any

import torch

from metarun.config import ConfigError


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` so that a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU, or None where there is nothing. Only tensors and plain values are read, never code."""
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch, zipfile or pickle raise
        raise ConfigError(f"{path}: not a readable checkpoint ({_first_line(error)}); restart=true starts over") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a checkpoint of metarun; restart=true starts over")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
