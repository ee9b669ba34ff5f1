"""The present protocol of a paper's row or of a table, and where a run's configuration departs from it. Imports no torch.

A row of `configs/paper/` sets every key of its protocol (`tests/test_papers.py`), and a table of `configs/table/` the keys common
to all of its runs. A run made under an earlier version of the row or table can therefore be recognised by its configuration.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import yaml

from metarun.config import CONFIGS, FORMER, IGNORED, flat


@cache
def row(name: str, group: Literal["paper", "table"] = "paper") -> dict[str, Any]:
    """The keys that a paper's row or a table sets, with their values, including those of the rows in its defaults list.

    Empty if there is no such row or table.
    """
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text())
    content.pop("hydra", None)
    inherited: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str):
            inherited |= row(entry, group)
    return inherited | dict(flat(content))


@cache
def choices(name: str, group: Literal["paper", "table"] = "paper") -> dict[str, str]:
    """The group choices of a paper's row or a table, as {"algo": "supervised"}, with those of the rows in its defaults list."""
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    result: dict[str, str] = {}
    for entry in yaml.safe_load(path.read_text()).get("defaults", []):
        if isinstance(entry, str):
            result |= choices(entry, group)
        else:
            result |= {key.removeprefix("override").strip(" /"): value for key, value in entry.items()}
    return result


def repeats(config: Mapping[str, Any], key: str, value: str, table: str, paper: str) -> bool:
    """Whether the override ``key=value`` sets what the table or the paper's row of the same command already sets.

    Values are compared in ``config``, the run's composed configuration, since ``value`` is text (`1e-3` and `0.001` are equal).
    """
    chosen = choices(table, "table") | choices(paper)
    if key in chosen:
        return chosen[key] == value
    expected = row(table, "table") | row(paper)
    return key in expected and _at(config, key) == expected[key]


def departures(config: Mapping[str, Any], name: str, group: Literal["paper", "table"] = "paper") -> dict[str, Any]:
    """The keys of the row or table ``name`` that differ in ``config``, a run's composed configuration, with the run's values.

    A key that the run's version did not have takes the value that reproduces that version (`metarun.config.FORMER`).
    """
    expected = row(name, group)
    actual = {key: _at(config, key) for key in expected if key not in IGNORED}
    return {key: value for key, value in actual.items() if value != expected[key]}


def _at(config: Any, key: str) -> Any:
    node = config
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return FORMER.get(key)
        node = node[name]
    return node
