"""A run directory belongs to one configuration. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metarun.config import ConfigError, changed_keys


def check_folder(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that holds a run of another configuration than ``config``, resolved.

    To be called before Hydra writes its own files there.

    Raises:
        ConfigError: there is such a run.
    """
    begun = (path / "results.json").is_file() or (path / "checkpoints" / "last.pt").is_file()
    try:
        composed = OmegaConf.to_container(OmegaConf.load(path / ".hydra" / "config.yaml"), resolve=True)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return  # nothing is known of it
    if not begun or not isinstance(composed, dict):
        return
    changed = changed_keys({str(key): value for key, value in composed.items()}, config)
    if changed:
        key, (then, now) = next(iter(changed.items()))
        more = f" (keys that differ: {len(changed)})" if len(changed) > 1 else ""
        raise ConfigError(
            f"{path}: holds a run of another configuration: {key} is {then} there, and {now} here{more};"
            " choose another folder (hydra.run.dir), or restart=true to start over"
        )
