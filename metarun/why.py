"""`metarun why KEY`: every layer of the configuration that sets a key, from the weakest to the one that wins."""

from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from metarun.choices import compose, spread
from metarun.config import ConfigError
from metarun.hydra_compat import COMMAND_LINE, Layers, layers
from metarun.mistakes import no_such_key

_UNSET = object()


def why(key: str, overrides: Sequence[str]) -> str:
    """A line for each layer that sets ``key`` under ``overrides``, its value and its file; the last value is the one that wins.

    A group is set by choices: `model` by `conv4`, which data of images bring. A value with interpolations is followed by what it
    resolves to, and a mapping that several layers set by what they make together.

    Raises:
        ConfigError: the composed configuration has no such key.
    """
    overrides = spread(overrides)
    config = compose(overrides, hydra_part=True)  # first of all, so that mistakes in the overrides are reported as for a run
    found = layers(overrides)
    if key in found.choices:
        return table(found.choices[key])
    parts = key.split(".")
    check_key(config, parts)
    rows = values_of(parts, found)
    rows = [(shown(value), source) for value, source in rows] + outcome(config, key, [value for value, _ in rows])
    return "\n".join([table(rows), *changes_at_start(config, key)])


def check_key(config: DictConfig, parts: Sequence[str]) -> None:
    """Raise a `ConfigError` unless ``config`` has the key whose path is ``parts``."""
    node: Any = config
    for count, part in enumerate(parts, 1):
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118 `in` means "and not missing" to OmegaConf
            raise ConfigError(no_such_key(".".join(parts[:count]), node))
        node = node[part] if count < len(parts) else None  # the last one is not resolved here


def values_of(parts: Sequence[str], found: Layers) -> list[tuple[Any, str]]:
    """The values that files and the command line give to a key, with their sources, in the order in which they are merged."""
    rows = [(lookup(values, parts), source) for source, values in found.files]
    for override in found.overrides:
        layer: Any = override.value()
        for part in reversed(override.key_or_group.split(".")):
            layer = {part: layer}
        rows.append((lookup(layer, parts), COMMAND_LINE))
    return [(value, source) for value, source in rows if value is not _UNSET]


def outcome(config: DictConfig, key: str, values: Sequence[Any]) -> list[tuple[str, str]]:
    """The row that ends the list where the last layer alone does not show the value that wins."""
    value = OmegaConf.select(config, key)
    value = shown(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)
    if not values:
        return [(value, "filled in by Hydra")]
    if isinstance(values[-1], dict) and len(values) > 1:
        return [(value, "merged")]
    return [(value, "resolved")] if "${" in shown(values[-1]) else []


def changes_at_start(config: DictConfig, key: str) -> list[str]:
    """What a run changes about the key after its configuration is composed."""
    choices = config.hydra.runtime.choices
    if key in ("trainer.iterations", "trainer.val_tasks", "trainer.test_tasks") and choices.budget != "full":
        return [f"budget={choices.budget} cuts it when the run starts; .hydra/resolved.yaml in the run directory has the result"]
    if key == "data.stages" and config.data.stages is None and choices.cl != "none":
        return [f"cl={choices.cl} needs stages: the run sets the default number of this data"]
    return []


def lookup(node: Any, parts: Sequence[str]) -> Any:
    """The value at a path of keys in nested mappings; `_UNSET` where there is none."""
    for part in parts:
        if not isinstance(node, dict) or part not in node:
            return _UNSET
        node = node[part]
    return node


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the values right-aligned."""
    width = max(len(value) for value, _ in rows)
    return "\n".join(f"{value:>{width}}  {source}" for value, source in rows)


def shown(value: Any) -> str:
    """A value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf")).removesuffix("...\n").strip()
