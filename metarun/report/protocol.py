"""The protocol of a paper's row today, and where a run's configuration departs from it. Imports no torch.

A row of `configs/paper/` states every key of its protocol (`tests/test_papers.py`), so it can be compared with the configuration
of a run that was made when the row said something else.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from metarun.config import CONFIGS, LATER, NO_EFFECT

FORMER = {f"{node}.{key}": value for node, keys in LATER.items() for key, value in keys.items()}
"""What a configuration without the key did."""
ASIDE = {f"{node}.{key}" for node, keys in NO_EFFECT.items() for key in keys}


@cache
def row(name: str) -> dict[str, Any]:
    """The keys that a paper's row sets, with their values: its own, and those of the rows that it builds on; empty: no such row."""
    path = CONFIGS / "paper" / f"{name}.yaml"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text())
    parents = [entry for entry in content.pop("defaults", []) if isinstance(entry, str)]
    return {key: value for parent in parents for key, value in row(parent).items()} | dict(_flat(content))


def departures(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The keys of the row ``name`` that have another value in ``config``, a run's composed configuration, with that value.

    A key that the run's version did not have counts with the value that does what that version did.
    """
    found = {key: _at(config, key) for key in row(name) if key not in ASIDE}
    return {key: value for key, value in found.items() if value != row(name)[key]}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _at(config: Any, key: str) -> Any:
    found = config
    for name in key.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return FORMER.get(key)
        found = found[name]
    return found
