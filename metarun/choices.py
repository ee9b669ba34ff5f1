"""The choices of a configuration: where they are found, how a list of methods is written, what a run directory is called.

Importing this module registers with Hydra and OmegaConf what metarun's configurations rely on: the search path with the user's
`conf/`, the check of what is composed (`metarun.trust`), and the resolver `run_name`. Imports no torch.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from metarun.config import CONFIGS, LATER, ConfigError, digest, resolved
from metarun.hydra_compat import use_loader
from metarun.trust import CheckedLoader

CHOICES = ("algo", "data", "cl", "model")
"""The groups that name a run."""


def compose(overrides: Sequence[str], *, hydra_part: bool = False) -> DictConfig:
    """Compose metarun's configuration under ``overrides``, with the choices of the user's `conf/`; ``hydra_part``: `hydra`, too."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return hydra.compose("config", spread(overrides), return_hydra_config=hydra_part)


def spread(arguments: Sequence[str]) -> list[str]:
    """Write `cl=[ewc,replay]` as Hydra takes it: the first method as the group's choice, the others under its key `also`."""
    words = []
    for argument in arguments:
        listed = re.fullmatch(r"cl=\[([\w\s,]+)\]", argument)
        if listed is None:
            words.append(argument)
            continue
        first, *others = listed[1].replace(" ", "").split(",")
        words += [f"cl={first}", *(f"+cl@cl.also.{other}={other}" for other in others)]
    return words


def methods(choices: Mapping[str, str]) -> str:
    """The continual-learning methods chosen: `ewc`, or `ewc+replay`."""
    return "+".join([choices["cl"], *(choice for group, choice in sorted(choices.items()) if group.startswith("cl@"))])


# The user's own configurations -----------------------------------------------------------------------------------------------


class UserConfigs(SearchPathPlugin):
    """Adds the folder `conf/` of the working directory to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if user_folder().is_dir():
            search_path.append("user", f"file://{user_folder()}")


def user_folder() -> Path:
    """The folder of the user's own choices."""
    return Path.cwd() / "conf"


def check_user_choices() -> None:
    """Check the files in the user's `conf/`.

    Raises:
        ConfigError: a choice or a preset has the name of a shipped one, so that Hydra would ignore it silently; a preset does not
            state what it sets; or data do not state the kind of their tasks.
    """
    for group in CHOICES:
        for path in (user_folder() / group).glob("*.yaml"):
            if (CONFIGS / group / path.name).is_file():
                raise ConfigError(f"{path}: {group}={path.stem} is a choice of metarun's own; give yours another name")
    for path in (user_folder() / "presets").glob("*.yaml"):
        check_user_preset(path)
    for path in (user_folder() / "data").glob("*.yaml"):
        text = path.read_text(errors="replace")
        kind = re.search(r"override /trainer\S*: (images|stream)\b", text)
        if kind and "/kind" not in text:  # algorithms are tuned by the kind of task, which the trainer's choice does not state
            raise ConfigError(
                f"{path}: expected the kind of its tasks; add `- override /kind@_global_.kind: {kind[1]}` to defaults"
            )


def check_user_preset(path: Path) -> None:
    """Raise a `ConfigError` where Hydra would silently ignore a preset of the user's, or put its keys where nothing reads them."""
    if (CONFIGS / "presets" / path.name).is_file():
        raise ConfigError(
            f"{path}: metarun's own preset of this name wins; set these keys on the command line or in a conf/paper/ row"
        )
    if not re.search(r"^# *@package +(_global_|cl|budget)\s*$", path.read_text(errors="replace"), re.MULTILINE):
        raise ConfigError(
            f"{path}: expected a line `# @package _global_` (of a learner), `# @package cl` (of a continual-learning method)"
            " or `# @package budget`"
        )


def folders(arguments: Sequence[str]) -> Iterator[Path]:
    """The folders of choices: metarun's, the user's `conf/`, and the one that ``arguments`` give as `--config-dir`."""
    yield CONFIGS
    yield user_folder()
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            yield Path(value if equals else "".join(arguments[i + 1 : i + 2]))


def choices_of(group: str, arguments: Sequence[str] = ()) -> dict[str, Path]:
    """The choices of a group and their files."""
    found = [path for folder in folders(arguments) for path in sorted((folder / group).glob("*.yaml"))]
    return {path.stem: path for path in reversed(found)}


# The run directory's name ----------------------------------------------------------------------------------------------------


def run_name(*, _root_: DictConfig) -> str:
    """`maml-sine/1f0c9a2b-seed0`: the choices, a digest of all that determines the result, and the seed."""
    choices, plain = _root_.hydra.runtime.choices, resolved(_root_)
    drop_later_keys(plain)
    if choices.get("budget") == "full":  # which changes nothing
        plain.pop("budget")
    parts = (choices.get("algo", "none"), choices.get("data", "none"), methods(choices))
    name = "-".join(part for part in parts if part != "none")
    return f"{name}/{digest(plain)}-seed{_root_.seed}"


def drop_later_keys(plain: dict[str, Any]) -> None:
    """Delete the keys of `metarun.config.LATER` that do what earlier versions did, so that their runs keep their names."""
    for node, values in LATER.items():
        for key, value in values.items():
            *path, last = f"{node}.{key}".split(".")
            parent: Any = plain
            for name in path:
                parent = parent.get(name) if isinstance(parent, dict) else None
            if isinstance(parent, dict) and last in parent and parent[last] == value:
                del parent[last]


use_loader(CheckedLoader)
Plugins.instance().register(UserConfigs)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)
