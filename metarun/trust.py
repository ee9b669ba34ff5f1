"""Checks composed configurations before Hydra creates callbacks, plugins and loggers; see `metarun.declared` for admitted names.

A configuration from elsewhere (`--config-dir`, a search path) may set metarun's keys, but none of Hydra's.
"""

import logging
import logging.handlers
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental import callbacks
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun.config import CONFIGS, ConfigError, check_own_keys
from metarun.declared import check_names, locate, modules_in
from metarun.folder import check_folder
from metarun.hydra_compat import ConfigLoader, ConfigSearchPath

SWEEPER = "hydra_plugins.metarun_sweeper.MetarunSweeper"
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


class CheckedLoader(ConfigLoader):
    """Hydra's loader, which checks composed configurations before Hydra creates callbacks, plugins and loggers."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        self._check_search_path(config_name, overrides)
        config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if folder_of(config.hydra) is None:
            self._check_untouched(config.hydra, run_mode)
        check_composed(config)
        if from_shell and run_mode == RunMode.RUN and not config.restart:
            check_folder(Path(config.hydra.run.dir), config)
        return config

    def _check_search_path(self, config_name: str | None, overrides: list[str]) -> None:
        """Allow only folders in the search path, since Hydra imports packages in it."""
        loaded = config_name and self.repository.load_config(config_name)
        paths = [OmegaConf.select(loaded.config, "hydra.searchpath")] if loaded and OmegaConf.is_dict(loaded.config) else []
        parsed = OverridesParser.create().parse_overrides(overrides)
        paths += [override.value() for override in parsed if override.key_or_group == "hydra.searchpath"]
        for places in paths:
            for place in map(str, places if isinstance(places, Sequence) else ()):
                if re.match(r"\w+://", place) and not place.startswith("file://"):
                    raise ConfigError(f"hydra.searchpath={place}: expected a folder")

    def _check_untouched(self, hydra: DictConfig, run_mode: RunMode) -> None:
        """Check that configurations from elsewhere change nothing of Hydra's part, except the keys of a sweep."""
        path = ConfigSearchPath()
        path.append("hydra", "pkg://hydra.conf")
        for folder in filter(Path.is_dir, own_folders(hydra)):
            path.append("main" if folder == CONFIGS else "user", f"file://{folder}")
        path.append("schema", "structured://")
        alone = ConfigLoader(path).load_configuration("config", list(hydra.overrides.hydra), run_mode)
        composed, expected = _plain(hydra), _plain(alone.hydra)
        for key in sorted(composed.keys() | expected.keys()):
            if composed.get(key) != expected.get(key):
                raise ConfigError(f"hydra.{key}: a configuration from elsewhere may not set it; set it on the command line")


def _plain(hydra: DictConfig) -> dict[str, Any]:
    """Hydra's part without the keys that Hydra fills in and the values of a sweep."""
    plain: Any = OmegaConf.to_container(hydra, resolve=False)
    for key in ("runtime", "overrides", "help", "hydra_help", "mode"):
        plain.pop(key, None)
    for key in ("override_dirname", "config_name", "id", "num"):
        plain["job"].pop(key, None)
    if isinstance(plain["sweeper"], dict) and plain["sweeper"].get("_target_") == SWEEPER:  # the sweeper checks them itself
        plain["sweeper"].pop("params", None)
    return {str(key): value for key, value in plain.items()}


def folder_of(hydra: Any) -> Path | None:
    """The working directory, if every configuration is from metarun, Hydra or the `conf/` there; else None."""
    own = {str(folder.resolve()) for folder in own_folders(hydra)}
    for source in hydra.runtime.config_sources:
        installed = source.schema == "pkg" and source.path.startswith(("hydra.", "hydra_plugins."))
        if not (
            installed or source.schema == "structured" or (source.schema == "file" and str(Path(source.path).resolve()) in own)
        ):
            return None
    names = (str(choice) for choice in hydra.runtime.choices.values())
    return Path(hydra.runtime.cwd) if not any(".." in name or name.startswith("/") for name in names) else None


def own_folders(hydra: Any) -> tuple[Path, ...]:
    """The folders of metarun's and of the user's own configurations."""
    return CONFIGS, Path(hydra.runtime.cwd) / "conf"


def check_composed(config: DictConfig) -> None:
    """Check every name in a composed configuration, Hydra's own part included.

    Raises:
        ConfigError: a name is not admitted, or is of the wrong type for its place.
    """
    filled = config.copy()
    with open_dict(filled):  # Hydra fills these in when a job starts
        filled.hydra.runtime.output_dir, filled.hydra.job.id, filled.hydra.job.num = "", "", 0
        parts = {key: filled.hydra[key] for key in ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")}
        hydra: Any = {key: OmegaConf.to_container(node, resolve=True) for key, node in parts.items() if OmegaConf.is_config(node)}
        del filled["hydra"]
    check_own_keys(config)
    for group, choice in config.hydra.runtime.choices.items():
        names = str(choice).replace("\\", "/").split("/")
        if ".." in names or "" in names:  # it becomes part of the run directory's name
            raise ConfigError(f"{group}={choice}: expected the name of a choice")
    with modules_in(folder_of(config.hydra)):
        check_names(OmegaConf.to_container(filled, resolve=True))
        for name, node in hydra.get("callbacks", {}).items():
            _check_instantiated(node, f"hydra.callbacks.{name}")
            _check_class((node or {}).get("_target_"), Callback, f"hydra.callbacks.{name}._target_")
        for part in ("launcher", "sweeper"):
            _check_instantiated(hydra.get(part), f"hydra.{part}")  # Hydra itself checks that it is a plugin
        for part in ("job_logging", "hydra_logging"):
            _check_logging(hydra.get(part) or {}, f"hydra.{part}")


def _check_instantiated(node: Any, key: str, *, inside: bool = False) -> None:
    """Check that a node that Hydra instantiates has no `_target_` below its own, and no key that controls instantiation."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if re.fullmatch(r"_\w+_", str(name)) and (inside or name != "_target_"):
                raise ConfigError(f"{key}.{name}: no such key")
            _check_instantiated(value, f"{key}.{name}", inside=True)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _check_instantiated(value, f"{key}[{number}]", inside=True)


_LOGGING: dict[str, type] = {"handlers": logging.Handler, "formatters": logging.Formatter, "filters": logging.Filter}


def _check_logging(node: Mapping[str, Any], key: str) -> None:
    """Check that a logging configuration creates only handlers, formatters and filters, and refers only to the standard streams."""
    for group, kind in _LOGGING.items():
        for name, made in (node.get(group) or {}).items():
            for entry, value in made.items() if isinstance(made, Mapping) else ():
                place = f"{key}.{group}.{name}.{entry}"
                if entry in ("class", "()"):
                    _check_class(value, kind, place)
                elif entry in (".", "queue", "listener"):
                    raise ConfigError(f"{place}: no such key")
    for text in _texts(node):
        if text.startswith(("ext://", "cfg://")) and text not in STREAMS:
            raise ConfigError(f"{key}: {text}: expected {' or '.join(STREAMS)}")


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(value)


def _check_class(target: Any, kind: type, key: str) -> None:
    """Like `metarun.declared.locate`, but also admit the standard library's logging classes and Hydra's own callbacks."""
    module, _, name = str(target).rpartition(".")
    known = {"logging": logging, "logging.handlers": logging.handlers, "hydra.experimental.callbacks": callbacks}
    if module in known:
        cls = vars(known[module]).get(name)
        if not isinstance(cls, type) or not issubclass(cls, kind):
            raise ConfigError(f"{key}={target}: expected a subclass of {kind.__name__}")
        return
    locate(target, kind, key)
