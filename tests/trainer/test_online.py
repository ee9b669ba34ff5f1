"""A stream whose stages change unannounced."""

import json

import numpy as np
import pytest
import torch
from streams import CPU, learner, method, stopped_and_resumed, stream, train

from metarun.config import ConfigError
from metarun.rng import bits, derive, uniform
from metarun.trainer import detector
from metarun.trainer.online import stages_of_rounds

ONLINE = {"switch": 0.2, "iterations": 30, "log_every": 7}


def test_the_sequence_is_a_function_of_seed_and_round():
    whole = stages_of_rounds(3, 5000, 4, 0.1)
    assert whole[:77] == stages_of_rounds(3, 77, 4, 0.1)
    assert whole != stages_of_rounds(4, 5000, 4, 0.1)
    assert whole[0] == 0
    assert np.mean(np.diff(whole) != 0) == pytest.approx(0.1, abs=0.015)
    assert np.bincount(whole) / 5000 == pytest.approx([0.25] * 4, abs=0.07)
    assert stages_of_rounds(0, 4, 1, 0.5) == [0] * 4


def test_the_sequence_by_its_definition():
    """Before a round the stage changes where a draw is below the probability, by a step from 1 to stages − 1."""
    found = stages_of_rounds(5, 40, 3, 0.3)
    draws = uniform(derive(5, "switch"), torch.arange(40), 1)[:, 0].tolist()
    steps = bits(derive(5, "next stage"), torch.arange(40), 1)[:, 0].tolist()
    stage = 0
    for number in range(40):
        if number and draws[number] < 0.3:
            stage = (stage + 1 + steps[number] % 2) % 3
        assert found[number] == stage, number
    assert stages_of_rounds(5, 0, 3, 0.3) == []


def test_scores_are_of_before_the_labels(tmp_path):
    """The first round's is that of the untrained learner on its tasks."""
    data = stream("class")
    outcome, _ = train(tmp_path, data, method("none"), **ONLINE)
    first = data.stages(CPU)[0].train.sample(torch.arange(8))
    untrained = learner(data).eval()
    right = untrained.predict(None, first.query.x).argmax(-1) == first.query.y
    assert outcome.position.online[0] == pytest.approx(float(right.float().mean()))
    assert len(outcome.position.online) == 90
    assert outcome.rounds == stages_of_rounds(0, 90, 3, 0.2)
    assert len(outcome.rows) == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "online/accuracy" in line]
    assert [line["step"] for line in lines] == list(range(1, 91))
    assert [line["online/accuracy"] for line in lines] == outcome.position.online
    assert [line["online/stage"] for line in lines] == outcome.rounds


@pytest.mark.parametrize(("name", "keys", "detect"), [("replay", (), None), ("ftml", (), None), ("ewc", (), 0.5), ("lwf", (), 0.5)])
@pytest.mark.parametrize("stop", [10, 71])
def test_a_kill_changes_nothing(name, keys, detect, stop, tmp_path, monkeypatch):
    monkeypatch.setattr(detector, "WARMUP", 3)
    data = stream("class")
    whole, algorithm = train(tmp_path / "whole", data, method(name, *keys), detect=detect, **ONLINE)
    again, resumed = stopped_and_resumed(tmp_path / "stopped", data, name, keys, stop, monkeypatch, detect=detect, **ONLINE)
    assert 0 < again.position.resumed_at[0] <= stop + 1  # a boundary on the way sets the generator once more
    assert again.position.online == whole.position.online
    assert again.rounds == whole.rounds
    assert again.boundaries == whole.boundaries
    assert bool(whole.boundaries) == (detect is not None)
    for key, value in algorithm.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    written = [(tmp_path / of / "metrics.jsonl").read_text().count("online/accuracy") for of in ("whole", "stopped")]
    assert written == [90, 90]


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("ewc", (), "EWC must be told when a stage ends; trainer.detect=4 guesses it"),
        ("replay", ("cl.keep=per_stage",), "Replay must be told when a stage ends"),
        ("joint", (), "Joint must be told the stage"),
        ("replay", ("+cl@cl.also.joint=joint",), "CompositeMethod must be told the stage"),
    ],
)
def test_who_must_be_told_more_is_refused(name, keys, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, stream("class"), method(name, *keys), **ONLINE)


def test_follow_the_meta_leader_trains_on_all_of_the_past():
    data, ftml = stream("class"), method("ftml", "cl.size=1000", "cl.draw=64")
    ftml.on_start(learner(data), data.stages(CPU))
    ftml.mix(data.stages(CPU)[0].train.sample(torch.arange(20)))
    drawn = ftml.mix(data.stages(CPU)[2].train.sample(torch.arange(20)))
    assert len(drawn) == 64
    assert set(drawn.query.y.flatten().tolist()) == {0, 1, 4, 5}
    bounded = method("ftml", "cl.size=8")
    bounded.on_start(learner(data), data.stages(CPU))
    for step in range(10):
        drawn = bounded.mix(data.stages(CPU)[0].train.sample(torch.arange(4) + 4 * step))
    assert len(bounded.memory) == 8
    assert len(drawn) == 4
