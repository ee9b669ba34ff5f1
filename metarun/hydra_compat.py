"""Everything that metarun uses of `hydra._internal`, in one file, so that an upgrade of Hydra is checked in one place.

Hydra promises nothing about these names. `tests/test_hydra_compat.py` fails under a version other than `CHECKED_WITH`: run the
whole suite under the new version, read this file against its changes, and only then change the constant.
"""

from argparse import ArgumentParser

from hydra._internal import hydra as _hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl as ConfigLoader
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl as ConfigSearchPath
from hydra._internal.utils import get_args_parser
from hydra.plugins.launcher import Launcher

CHECKED_WITH = "1.3.8"

__all__ = ["CHECKED_WITH", "ConfigLoader", "ConfigSearchPath", "flags", "is_basic", "use_loader"]


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
