"""The constructor's signature is the schema."""

from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from metarun.build import build
from metarun.config import ConfigError, require


class Thing:
    def __init__(
        self,
        first: int,
        *,
        rate: float,
        sizes: list[int] | None = None,
        kind: Literal["plain", "fancy"] = "plain",
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        require(rate > 0, "rate", rate, "a number above 0")
        self.first, self.rate, self.sizes, self.kind, self.bounds = first, rate, sizes, kind, bounds


class Sharer(Thing):
    def __init__(self, first: int, *, extra: int = 0, kind: Literal["fancy", "fanciest"] = "fancy", **common: Any) -> None:
        super().__init__(first, kind=kind, **common)  # type: ignore[arg-type]
        self.extra = extra


class Fixed(Thing):
    def __init__(self, first: int, extra: int = 0) -> None:
        super().__init__(first, rate=1.0)


TARGET = f"{__name__}.Thing"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("METARUN_PACKAGES", __name__)
    monkeypatch.setitem(
        __import__("sys").modules, __name__, __import__("types").SimpleNamespace(Thing=Thing, Sharer=Sharer, Fixed=Fixed)
    )


def make(target=TARGET, **keys):
    return build(OmegaConf.create({"_target_": target, **keys}), 7, key="algo")


def test_common_keys_are_those_of_the_base_class():
    thing = make(TARGET.replace("Thing", "Sharer"), rate=1, extra=2, sizes=[3])
    assert (thing.first, thing.rate, thing.extra, thing.sizes, thing.kind) == (7, 1.0, 2, [3], "fancy")


@pytest.mark.parametrize(
    ("target", "keys", "message"),
    [
        ("Sharer", {}, r"algo\.rate: missing"),
        ("Sharer", {"rate": "fast"}, r"algo\.rate=fast: expected float"),
        ("Sharer", {"rate": -1}, r"algo\.rate=-1\.0: expected a number above 0"),
        ("Sharer", {"rate": 1, "siezs": []}, r"algo\.siezs: no such key; did you mean sizes\?"),
        ("Sharer", {"rate": 1, "kind": "plain"}, r"algo\.kind=plain: expected one of fancy, fanciest"),
        ("Sharer", {"rate": 1, "first": 1}, r"algo\.first: no such key"),
        ("Fixed", {"rate": 1}, r"algo\.rate: no such key"),
    ],
)
def test_mistakes_in_common_keys_are_named(target, keys, message):
    with pytest.raises(ConfigError, match=message):
        make(TARGET.replace("Thing", target), **keys)


def test_values_reach_the_constructor():
    thing = make(rate=1, sizes=[1, 2], bounds=[0, 2])
    assert (thing.first, thing.rate, thing.sizes, thing.bounds) == (7, 1.0, [1, 2], (0.0, 2.0))
    assert isinstance(thing.rate, float)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rate": 1.0, "sises": [1]}, r"algo\.sises: no such key; did you mean sizes\?"),
        ({"rate": 1.0, "first": 1}, r"algo\.first: no such key"),
        ({}, r"algo\.rate: missing"),
        ({"rate": "???"}, r"algo\.rate: missing; give it as algo\.rate=VALUE"),
        ({"rate": "abc"}, r"algo\.rate=abc: expected float, .*valid number"),
        ({"rate": True}, r"algo\.rate=True: expected float"),
        ({"rate": "1.0"}, r"algo\.rate=1\.0: expected float"),
        ({"rate": -1}, r"algo\.rate=-1\.0: expected a number above 0"),
        ({"rate": 1.0, "sizes": [1, "a"]}, r"algo\.sizes=\[1, 'a'\]: expected list\[int\] \| None"),
        ({"rate": 1.0, "kind": "fance"}, r"algo\.kind=fance: expected one of plain, fancy; did you mean fancy\?"),
        ({"rate": 1.0, "bounds": [1]}, r"algo\.bounds=\[1\]: expected tuple\[float, float\]"),
    ],
)
def test_mistakes_are_named(keys, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Thing", "expected a dotted name"),
        ("nowhere.Thing", "no module named nowhere"),
        ("metarun.nowhere.Thing", r"no module named metarun\.nowhere"),
        ("metarun.algo.maml.MALM", "no MALM in metarun.algo.maml; did you mean MAML"),
    ],
)
def test_a_wrong_target_is_named(target, message):
    with pytest.raises(ConfigError, match=message):
        build({"_target_": target}, key="algo")


def test_a_class_of_torch_is_built_too():
    weights = [torch.zeros(1, requires_grad=True)]
    node = OmegaConf.create({"_target_": "torch.optim.AdamW", "lr": 1e-2, "betas": [0.0, 0.99]})
    optimizer = build(node, weights, key="trainer.optimizer")
    assert optimizer.defaults["lr"] == 1e-2
    assert tuple(optimizer.defaults["betas"]) == (0.0, 0.99)
    with pytest.raises(ConfigError, match=r"trainer\.optimizer\.lrr: no such key; did you mean lr"):
        build({"_target_": "torch.optim.AdamW", "lrr": 1}, weights, key="trainer.optimizer")
    with pytest.raises(ConfigError, match=r"trainer\.optimizer\.lr=fast: expected"):
        build({"_target_": "torch.optim.AdamW", "lr": "fast"}, weights, key="trainer.optimizer")
