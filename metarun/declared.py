"""Which code a configuration may name: metarun's own, torch's optimizers and schedulers, and modules that the user has declared.

The packages listed in `METARUN_PACKAGES` are declared, and so are modules in the working directory, provided that every
configuration comes from metarun, from the `conf/` folder there or from the command line. Finished runs and folders of
configurations from elsewhere cannot declare anything. Names are checked before anything is imported, and types before anything is
called. `metarun.trust` applies these rules to what Hydra composes.
"""

import importlib.util
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, get_type_hints

from metarun.config import ConfigError, nearest

PACKAGES = "METARUN_PACKAGES"
ADMITTED = ("metarun.", "torch.optim.")

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def modules_in(folder: Path | None) -> Iterator[None]:
    """Within the block, modules in ``folder`` are declared; with None, those of no folder."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def check_name(target: object, key: str) -> str:
    """Return ``target`` if it is the dotted name of something in an admitted module. Imports nothing.

    Raises:
        ConfigError: it is not a dotted name, there is no such package, or the package is not declared.
    """
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        raise ConfigError(f"{key}={target}: expected a dotted name such as package.module.Class")
    package = target.partition(".")[0]
    if target.startswith(ADMITTED) or _declared(target) or _is_in(package, _folder.get()):
        return target
    if _spec(package) is None:
        raise ConfigError(f"{key}={target}: no module named {package}")
    raise ConfigError(f"{key}={target}: not part of metarun and not declared; if you trust {package}, set {PACKAGES}={package}")


def locate(target: Any, kind: type = object, key: str = "_target_") -> Any:
    """The class with the dotted name ``target``, a subclass of ``kind``, or a function annotated to return one.

    Imports admitted modules only, and calls nothing.

    Raises:
        ConfigError: there is no such class, its module is not admitted, or it is not a subclass of ``kind``.
    """
    module_name, _, name = check_name(target, key).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module missing on the path to the target is the user's typo; one missing inside it is a bug, shown as it is.
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(f"{key}={target}: no module named {error.name}") from None
        raise
    if not hasattr(module, name):
        raise ConfigError(f"{key}={target}: no {name} in {module_name}{nearest(name, vars(module))}")
    callee = getattr(module, name)
    result = callee if inspect.isclass(callee) else hints_of(callee).get("return") if inspect.isfunction(callee) else None
    if not inspect.isclass(result) or not issubclass(result, kind):
        raise ConfigError(f"{key}={target}: expected a subclass of {kind.__name__}")
    return callee


def hints_of(callee: Any) -> dict[str, Any]:
    """Type hints with forward references resolved; empty if only a type checker can resolve them."""
    try:
        return get_type_hints(callee)
    except (NameError, TypeError):
        return {}


def check_names(node: Any, key: str = "") -> None:
    """Apply `check_name` to every `_target_` in a resolved configuration, however deep, built or not."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            place = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                check_name(value, place)
            check_names(value, place)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            check_names(value, f"{key}[{number}]")


def _declared(target: str) -> bool:
    packages = os.environ.get(PACKAGES, "").replace(",", " ").split()
    in_folder = "." in packages and _is_in(target.partition(".")[0], Path.cwd())
    return in_folder or any(target.startswith(f"{package}.") for package in packages)


def _is_in(package: str, folder: Path | None) -> bool:
    """Whether a top-level module would be imported from ``folder`` itself."""
    spec = _spec(package)
    if folder is None or spec is None:
        return False
    places = spec.submodule_search_locations or [spec.origin or ""]
    return any(Path(place).resolve().parent == folder.resolve() for place in places)


def _spec(package: str) -> ModuleSpec | None:
    """Where a top-level module would be imported from, without importing it."""
    try:
        return importlib.util.find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        return None
