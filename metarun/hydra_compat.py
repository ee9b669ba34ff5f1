"""Everything that metarun uses of `hydra._internal`, in one file, so that an upgrade of Hydra is checked in one place.

Hydra promises nothing about these names. `tests/test_hydra_compat.py` fails under a version other than `CHECKED_WITH`: run the
whole suite under the new version, read this file against its changes, and only then change the constant.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra import initialize_config_dir
from hydra._internal import hydra as _hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl as ConfigLoader
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl as ConfigSearchPath
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import OmegaConf

from metarun.config import CONFIGS

CHECKED_WITH = "1.3.8"
COMMAND_LINE = "the command line"

__all__ = [
    "CHECKED_WITH",
    "COMMAND_LINE",
    "ConfigLoader",
    "ConfigSearchPath",
    "Layers",
    "flags",
    "is_basic",
    "layers",
    "use_loader",
]


def use_loader(loader: type[ConfigLoader]) -> None:
    """Compose every configuration with ``loader``. Hydra has no hook between composing a configuration and making its callbacks."""
    _hydra.ConfigLoaderImpl = loader  # type: ignore[attr-defined]


def flags() -> ArgumentParser:
    """Hydra's parser of its own flags."""
    return get_args_parser()


def is_basic(launcher: Launcher | None) -> bool:
    """Whether it is Hydra's own launcher, which runs the jobs one after another in this process."""
    # Imported here: Hydra executes the modules of its plugins anew when it looks for plugins, which makes other classes.
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    return type(launcher) is BasicLauncher


class Layers(NamedTuple):
    """What a configuration is merged from."""

    files: list[tuple[str, Any]]
    """Names and contents, unresolved and at their place in the whole, in the order in which they are merged."""
    overrides: list[Override]
    """Those of the command line that are no choices of a group."""
    choices: dict[str, list[tuple[str, str]]]
    """By group: the choice in the default configuration, if any, and the one that replaces it; each with the file that says so."""


def layers(overrides: Sequence[str]) -> Layers:
    """What Hydra would merge for ``overrides``. Checks nothing: compose the configuration first."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        loader: Any = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("config", list(overrides), RunMode.RUN)
        _, repository = loader._parse_overrides_and_create_caching_repo("config", list(overrides))
        files, names = [], {}
        for default in found.defaults:
            loaded = loader._load_single_config(default, repository)
            folder = loaded.path.rpartition("/")[2] or "Hydra's schema"
            names[default.config_path] = f"{folder}/{default.config_path}.yaml"
            files.append((names[default.config_path], OmegaConf.to_container(loaded.config, resolve=False)))
        defaults = {entry.group: entry.value for entry in repository.load_config("config").defaults_list if hasattr(entry, "group")}
    choices = {}
    for group, choice in found.overrides.known_choices.items():
        rows = [(str(defaults[group]), names["config"])] if group in defaults else []
        replaced = found.overrides.override_metadata.get(group)
        if replaced is not None and replaced.external_override:
            rows.append((str(choice), COMMAND_LINE))
        elif replaced is not None:
            path = replaced.containing_config_path
            rows.append((str(choice), names.get(path, f"{path}.yaml")))
        choices[group] = rows
    return Layers(files, found.config_overrides, choices)
