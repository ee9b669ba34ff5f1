"""The protocol of a paper's row or of a table today, and where a run's configuration departs from it. Imports no torch.

A row of `configs/paper/` states every key of its protocol (`tests/test_papers.py`), and a table of `configs/table/` those that
hold for all of its runs, so each can be compared with the configuration of a run that was made when it said something else.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import yaml

from metarun.config import CONFIGS, FORMER, NO_EFFECT

ASIDE = {f"{node}.{key}" for node, keys in NO_EFFECT.items() for key in keys}


@cache
def row(name: str, group: Literal["paper", "table"] = "paper") -> dict[str, Any]:
    """The keys that a paper's row or a table sets, with their values: its own, and those of the rows that it builds on.

    Empty where there is no such row or table.
    """
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text())
    content.pop("hydra", None)
    found: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str):
            found |= row(entry, group)
    return found | dict(flat(content))


@cache
def choices(name: str, group: Literal["paper", "table"] = "paper") -> dict[str, str]:
    """The group choices of a paper's row or a table, as {"algo": "supervised"}, with those of the rows that it builds on."""
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for entry in yaml.safe_load(path.read_text()).get("defaults", []):
        if isinstance(entry, str):
            found |= choices(entry, group)
        else:
            found |= {key.removeprefix("override").strip(" /"): value for key, value in entry.items()}
    return found


def repeats(config: Mapping[str, Any], key: str, value: str, table: str, paper: str) -> bool:
    """Whether the override ``key=value`` sets what the table or the paper's row of the same command sets already.

    ``config``: the run's composed configuration, as ``value`` is text in Hydra's grammar (`1e-3` and `0.001` are the same).
    """
    chosen = choices(table, "table") | choices(paper)
    if key in chosen:
        return chosen[key] == value
    wanted = row(table, "table") | row(paper)
    return key in wanted and _at(config, key) == wanted[key]


def departures(config: Mapping[str, Any], name: str, group: Literal["paper", "table"] = "paper") -> dict[str, Any]:
    """The keys of the row or table ``name`` that have another value in ``config``, a run's composed configuration, with that value.

    A key that the run's version did not have counts with the value that does what that version did.
    """
    wanted = row(name, group)
    found = {key: _at(config, key) for key in wanted if key not in ASIDE}
    return {key: value for key, value in found.items() if value != wanted[key]}


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration by full keys, `algo.inner_lr`; lists are values."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _at(config: Any, key: str) -> Any:
    found = config
    for name in key.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return FORMER.get(key)
        found = found[name]
    return found
