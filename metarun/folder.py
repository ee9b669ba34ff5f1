"""A run directory belongs to one configuration. Imports no torch."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metarun.config import ConfigError, changed_keys, resolved


def check_folder(path: Path, config: DictConfig) -> None:
    """Refuse a folder that holds a run of another configuration than ``config``, composed.

    Call it before Hydra writes its own files there.

    Raises:
        ConfigError: there is such a run.
    """
    if not ((path / "results.json").is_file() or (path / "checkpoints" / "last.pt").is_file()):
        return
    try:
        former = OmegaConf.load(path / ".hydra" / "config.yaml")
        changed = changed_keys(resolved(former), resolved(config)) if isinstance(former, DictConfig) else {}
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return  # the configuration of the run there is unknown
    if changed:
        key, (then, now) = next(iter(changed.items()))
        more = f" (keys that differ: {len(changed)})" if len(changed) > 1 else ""
        raise ConfigError(
            f"{path}: holds a run of another configuration: {key} is {then} there, and {now} here{more};"
            " choose another folder (hydra.run.dir), or restart=true to start over"
        )
