"""Location of the configurations, keys that do not affect results, and configuration errors. Imports nothing heavy."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

_PACKAGE = Path(__file__).resolve().parent
CONFIGS = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir())
"""The folder of metarun's own choices, in an installed package or in a checkout."""

NO_EFFECT: dict[str, tuple[str, ...]] = {
    "": ("seed", "restart", "any_code", "search"),
    "data": ("root",),
    "trainer": ("device", "threads", "compile", "checkpoint_every", "log_every", "tensorboard", "figures", "paper_tasks"),
}
"""Keys that do not change what a run computes, and the seed, which is part of the directory's name."""
IGNORED = frozenset(f"{node}.{key}".lstrip(".") for node, keys in NO_EFFECT.items() for key in keys)
"""The same by full key."""

LATER: dict[str, dict[str, Any]] = {
    "trainer": {"nonfinite": "stop", "deterministic": False, "clip_value": None, "report_steps": "last"},
    "algo": {"networks.snail.dilation": 1},
    "cl": {"path": "loss", "also.si.path": "loss"},
    "model": {"eps": 1e-5, "slope": 0.0, "standardise": None, "gain": 1.0, "head_init": "torch", "head_bias": 0.0},
}
"""Keys added after the first version, with values that reproduce its behaviour, so that earlier runs keep their directories."""
FORMER = {f"{node}.{key}": value for node, keys in LATER.items() for key, value in keys.items()}
"""The same by full key: the values of keys that an earlier configuration lacks."""


class ConfigError(ValueError):
    """A user's mistake in a configuration or in data, in one line: the key or file, what was found and what was expected."""


class RangeError(ConfigError):
    """A value of the right type that is out of range. `build` completes the key."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(f"{key}={value}: expected {expected}")
        self.key, self.value, self.expected = key, value, expected


def digest(plain: Mapping[str, Any], keep: Iterable[str] = ()) -> str:
    """A short hash of a resolved configuration without the keys of `NO_EFFECT`, except the top-level ones in ``keep``."""
    ignored = NO_EFFECT | {"": tuple(key for key in NO_EFFECT[""] if key not in keep)}
    kept = {key: value for key, value in plain.items() if key not in ignored[""]}
    for node in kept.keys() & ignored.keys():
        kept[node] = {key: value for key, value in kept[node].items() if key not in ignored[node]}
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=4).hexdigest()


def resolved(config: DictConfig) -> dict[str, Any]:
    """A composed configuration without Hydra's own part, interpolations resolved."""
    own: Any = OmegaConf.to_container(config, resolve=False)
    own.pop("hydra", None)
    plain: Any = OmegaConf.to_container(OmegaConf.create(own), resolve=True)
    return {str(key): value for key, value in plain.items()}


def changed_keys(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two resolved configurations differ, with both values; the seed is one of them, `NO_EFFECT` is not.

    metarun's own classes are compared by name, because their modules may move between versions.
    """
    ignored = IGNORED - {"seed"}

    def values(config: Mapping[str, Any]) -> dict[str, Any]:
        compared = {key: value for key, value in flat(config) if key.split(".")[0] not in ignored and key not in ignored}
        return {key: value.rpartition(".")[2] if names_own_class(key, value) else value for key, value in compared.items()}

    return differences(values(then), values(now))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The full keys whose values differ, with both values; a key that one side lacks has its value in `FORMER` there."""
    pairs = {key: (then.get(key, FORMER.get(key)), now.get(key, FORMER.get(key))) for key in dict.fromkeys((*then, *now))}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def names_own_class(key: str, value: Any) -> bool:
    """Whether a key names one of metarun's classes."""
    return key.endswith("_target_") and str(value).startswith("metarun.")


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration by full key (`algo.inner_lr`); a list is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_own_keys(config: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` if a key outside all groups has a value of the wrong type."""
    for key, kinds in {"seed": (int,), "restart": (bool,), "any_code": (bool,), "reference": (str, type(None))}.items():
        if type(config[key]) not in kinds:
            raise ConfigError(f"{key}={config[key]}: expected {kinds[0].__name__}")


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Raise a `RangeError` unless ``ok``: ``require(lr > 0, "lr", lr, "a number above 0")``."""
    if not ok:
        raise RangeError(key, value, expected)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened; the name of its class if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean x?`; the list of choices if none is close, and nothing if there are none."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f" (choose from {', '.join(choices)})" if choices else ""


def choose(key: str | None, table: Mapping[str, Any]) -> Any:
    """The value of ``key`` in ``table``, for `${choose:${data.scenario},{task: 1, class: 2}}` in a configuration."""
    if key is None or key not in table:
        raise ConfigError(f"{key}: expected one of {', '.join(table)}")
    return table[key]


OmegaConf.register_new_resolver("choose", choose, replace=True)
