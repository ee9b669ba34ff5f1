"""Mistakes of the user's, each in one line: what was found, what was expected, and the nearest valid choice. Imports no torch."""

import argparse
import errno
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from metarun.choices import choices_of
from metarun.config import ConfigError, nearest
from metarun.help import GROUPS

MEMORY = "out of memory|can't allocate memory|not enough memory|overflow|[Ii]nvalid storage size"
"""What torch says when memory runs out, or when a number is beyond its types."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of the disk, which need not name a file."""

EXTRAS = {"joblib": "parallel", "submitit": "slurm", "ray": "ray"}
"""Launchers, and the extra of metarun's that installs each."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('metarun ')}: {message}")


@contextmanager
def in_one_line(arguments: Sequence[str]) -> Iterator[None]:
    """Within the block, what Hydra raises about ``arguments`` becomes a `ConfigError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, arguments)) from error


def line_and_status(error: Exception, arguments: Sequence[str]) -> tuple[str, int] | None:
    """The line to print and the exit status; None for a bug, whose traceback is to be shown."""
    if type(error).__name__ in ("Diverged", "SweepFailed", "Lost"):  # by name: importing them would import torch
        return str(error), 1
    if isinstance(error, OSError) and (error.filename or error.errno in DISK):
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part), 2
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException) or raised_by_hydra(error):
        return explain(error, arguments), 2
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(MEMORY, str(error))):
        return f"this is more than the machine can hold ({one_line(str(error))[:160] or 'memory'})", 2
    return None


def raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra raised it, or what Hydra called, without code of metarun's in between: a mistake that Hydra let through."""
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    known = [package for package in packages if package in ("hydra", "omegaconf", "antlr4", "metarun", "hydra_plugins")]
    return bool(known) and known[-1] not in ("metarun", "hydra_plugins")


def explain(error: BaseException, arguments: Sequence[str]) -> str:
    """A mistake in one line."""
    text = str(error)
    if isinstance(error, ConfigError):
        return one_line(text)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: no such choice{nearest(choice, error.options or ())}"
    if unknown := unknown_key(error):
        return unknown
    # Hydra has no attributes for these; the text is all there is.
    if match := re.search(r"Could not override '([^']+)'\. No match in the defaults list", text):
        return f"{match[1]}: not in the default configuration; use +{match[1]}=CHOICE"
    if match := re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_(joblib|submitit|ray)_", text):
        extra = EXTRAS[match[1]]
        return f"hydra/launcher: this one needs metarun's extra {extra}; pip install 'metarun[{extra}]'"
    if match := re.search(r"You must specify '([^']+)'", text):
        return f"{match[1]}: missing; choose from {', '.join(choices_of(match[1], arguments))}"
    if isinstance(error, OverrideParseException) or not isinstance(error, HydraException | OmegaConfBaseException):
        bad = getattr(error, "override", None) or next((a for a in arguments if a[:1] == "="), None)
        if bad:
            return f"{one_line(bad)}: not an override; write KEY=VALUE, GROUP=CHOICE or +KEY=VALUE"
        cause = f" ({one_line(str(error.__cause__))})" if error.__cause__ else ""
        return f"Hydra cannot work with this configuration: {one_line(text) or type(error).__name__}{cause}"
    return one_line(text)


def unknown_key(error: BaseException | None) -> str | None:
    """The line for a key that the composed configuration does not have; None where ``error`` is something else."""
    while error is not None and not isinstance(error, ConfigAttributeError | ConfigKeyError):
        error = error.__cause__ or error.__context__
    return no_such_key(str(error.full_key), error.parent_node) if error is not None and error.full_key else None


def no_such_key(key: str, node: object) -> str:
    """The line for a key that is not in ``node``, the mapping that should have it, with the nearest one that is."""
    known = {str(name) for name in node} - {"_target_", "hydra"} if isinstance(node, DictConfig) else set()
    if "." not in key:
        known |= {title.lstrip("+") for title in GROUPS}
    suggestion = nearest(key.rpartition(".")[2], known)
    # Files of metarun's own classes list every key; an argument of one of torch's may be missing there.
    target = str(node.get("_target_", "metarun.")) if isinstance(node, DictConfig) else "metarun."
    if not target.startswith("metarun.") and "did you mean" not in suggestion:
        suggestion += f"; another argument of {target.rpartition('.')[2]} is added by +{key}=VALUE"
    return f"{key}: no such key{suggestion}"


def one_line(text: str) -> str:
    """Several lines joined to one."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
