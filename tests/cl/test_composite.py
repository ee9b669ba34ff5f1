"""Methods in a list: every pair trains and resumes to the same bytes, or is refused in one line before training."""

from itertools import permutations

import pytest
import torch
from streams import CPU, learner, method, stopped_and_resumed, stream, train

from metarun.config import CONFIGS, ConfigError

METHODS = sorted(path.stem for path in (CONFIGS / "cl").glob("*.yaml"))
PENALTIES = ["ewc", "l2", "mas", "online_ewc", "si"]
HEAD = {"network.layers.2.weight", "network.layers.2.bias"}


def refused(one: str, other: str) -> str | None:
    """Why a pair is refused, in either order."""
    if "none" in (one, other):
        return None
    if "progressive" in (one, other):
        return "nothing is forgotten|through the head"
    if "heads" in (one, other):
        return None if {one, other} & set(PENALTIES) else r"use data\.scenario=task"
    return "both choose the past tasks" if {one, other} == {"ftml", "replay"} else None


def keys_of(other: str) -> tuple[str, ...]:
    return (f"+cl@cl.also.{other}={other}",)


@pytest.mark.parametrize("one", METHODS)
def test_every_pair_trains_or_says_why_not(one, tmp_path):
    data = stream("domain")
    for other in METHODS:
        why = refused(one, other)
        if other == one or (why is None and other < one):
            continue
        if why is not None:
            with pytest.raises(ConfigError, match=f"cannot be combined: .*({why})"):
                method(one, *keys_of(other))
            continue
        outcome, algorithm = train(tmp_path / other, data, method(one, *keys_of(other)), iterations=2)
        assert len(outcome.rows) == 4
        assert all(bool(w.isfinite().all()) for w in algorithm.parameters())


@pytest.mark.parametrize(("one", "other"), [pair for p in PENALTIES for pair in permutations(("heads", p))])
def test_a_penalty_never_pulls_a_new_head_to_an_old_one(one, other):
    data = stream("domain")
    algorithm, both = learner(data), method(one, *keys_of(other))
    stages = data.stages(CPU)
    both.on_start(algorithm, stages)
    torch.manual_seed(0)
    for number, stage in enumerate(stages[:2]):
        both.enter(number)
        both.on_stage_start(algorithm, number)
        for update in range(3):
            algorithm.zero_grad()
            algorithm.backward(stage.train.sample(torch.arange(8) + 8 * update))
            both.gradient(algorithm)
            with torch.no_grad():
                for w in algorithm.parameters():
                    w -= 0.1 * w.grad
            both.after_update(algorithm, stage.train.sample(torch.arange(8)))
        both.on_stage_end(algorithm, stage)
    both.enter(2)
    both.on_stage_start(algorithm, 2)
    head = {name: algorithm.get_parameter(name).detach().clone() for name in HEAD}
    with torch.no_grad():
        for w in algorithm.parameters():
            w += 1.0
    algorithm.zero_grad()
    both.gradient(algorithm)
    pulled = {name for name, w in algorithm.named_parameters() if w.grad is not None and bool(w.grad.any())}
    assert pulled == {name for name, _ in algorithm.named_parameters()} - HEAD
    kept = next(m for m in both.methods if hasattr(m, "heads"))
    assert all(torch.equal(head[name], kept.heads[2][name]) for name in HEAD)


def test_the_path_of_si_is_of_the_body_alone():
    data = stream("domain")
    algorithm, both = learner(data), method("si", *keys_of("heads"))
    both.on_start(algorithm, data.stages(CPU))
    both.enter(0)
    both.on_stage_start(algorithm, 0)
    found = both.on_stage_end(algorithm, data.stages(CPU)[0])
    assert found.keys() >= {"importance_trace", "importance_max"}
    assert not HEAD & both.methods[0].importance.keys()


@pytest.mark.parametrize("pair", [("heads", "ewc"), ("si", "heads")])
@pytest.mark.parametrize("stop", [5, 9])
def test_heads_and_a_penalty_resume_to_the_same_bytes(pair, stop, tmp_path, monkeypatch):
    data, keys = stream("domain"), keys_of(pair[1])
    whole, algorithm = train(tmp_path / "whole", data, method(pair[0], *keys))
    again, resumed = stopped_and_resumed(tmp_path / "stopped", data, pair[0], keys, stop, monkeypatch)
    assert again.rows == whole.rows
    for name, value in algorithm.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
