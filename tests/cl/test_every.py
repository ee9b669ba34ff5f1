"""Every method in every scenario: it trains, does something, and resumes to the same bytes from the middle of any stage."""

import pytest
import torch
from streams import method, stopped_and_resumed, stream, train

from metarun.config import CONFIGS

METHODS = sorted(path.stem for path in (CONFIGS / "cl").glob("*.yaml"))


def weights(algorithm):
    return {name: value.clone() for name, value in algorithm.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("scenario", "stops"), [("task", (2, 8, 15)), ("domain", (9,)), ("class", (14,))])
def test_trains_and_resumes_to_the_same_bytes(name, scenario, stops, tmp_path, monkeypatch):
    data = stream(scenario)
    whole, algorithm = train(tmp_path / "whole", data, method(name))
    assert len(whole.rows) == 4
    for stop in stops:  # in the first, second and third stage, of six updates each
        again, resumed = stopped_and_resumed(tmp_path / str(stop), data, name, (), stop, monkeypatch)
        assert again.position.resumed_at == [stop + 1]
        assert again.rows == whole.rows
        assert_same(weights(resumed), weights(algorithm))


@pytest.mark.parametrize("name", [m for m in METHODS if m != "none"])
def test_does_something(name, tmp_path):
    data = stream("task")
    _, plain = train(tmp_path / "none", data, method("none"))
    _, other = train(tmp_path / name, data, method(name))
    here, there = weights(plain), weights(other)
    assert here.keys() != there.keys() or any(not torch.equal(here[key], there[key]) for key in here)


def test_several_at_once(tmp_path, monkeypatch):
    data = stream("class")
    keys = ("+cl@cl.also.replay=replay", "+cl@cl.also.agem=agem")
    _, both = train(tmp_path / "both", data, method("ewc", *keys))
    _, one = train(tmp_path / "one", data, method("ewc"))
    assert any(not torch.equal(a, b) for a, b in zip(weights(both).values(), weights(one).values(), strict=True))
    _, resumed = stopped_and_resumed(tmp_path / "stopped", data, "ewc", keys, 13, monkeypatch)
    assert_same(weights(resumed), weights(both))


def test_the_optimizer_is_kept_or_reset(tmp_path):
    data = stream("domain")
    _, kept = train(tmp_path / "kept", data, method("none"))
    _, reset = train(tmp_path / "reset", data, method("none"), reset_optimizer=True)
    assert any(not torch.equal(a, b) for a, b in zip(weights(kept).values(), weights(reset).values(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_stages_go_with_a_momentum(name, tmp_path):
    """A new stage's weights have none yet, beside those that have."""
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
    _, algorithm = train(tmp_path, stream("domain"), method(name), optimizer=sgd)
    assert all(bool(w.isfinite().all()) for w in algorithm.parameters())
