"""A stream whose stages change unannounced."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from streams import CPU, learner, method, stopped_and_resumed, stream, train
from torch import nn

from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.episodes import Episodes, Examples
from metarun.kinds import REGRESSION
from metarun.metric import ACCURACY, MSE
from metarun.ranks import ALONE, Ranks
from metarun.rng import bits, derive, uniform
from metarun.trainer import detector
from metarun.trainer.online import Stream, check_online, stages_of_rounds, stretches
from metarun.trainer.state import Position

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
    changes = [number > 0 and draw < 0.3 for number, draw in enumerate(draws)]
    two = stages_of_rounds(5, 40, 2, 0.3)
    assert [a != b for a, b in zip([0, *two], two, strict=False)] == changes  # always to the other one


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


# The stream by itself ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "found"),
    [(0, [(0, 0, 2), (2, 2, 3), (1, 3, 6)]), (1, [(0, 1, 2), (2, 2, 3), (1, 3, 6)]), (4, [(1, 4, 6)]), (6, [])],
)
def test_rounds_of_one_stage_are_a_stretch(start, found):
    assert list(stretches([0, 0, 2, 1, 1, 1], start)) == found


class Needing(ContinualMethod):
    def __init__(self, needs):
        self.needs = needs


@pytest.mark.parametrize(
    ("needs", "detects", "message"),
    [
        ("stages", True, "Needing must be told the stage, and nobody announces it"),
        ("boundaries", False, "Needing must be told when a stage ends; trainer.detect=4 guesses it"),
        ("boundaries", True, None),
        ("nothing", False, None),
    ],
)
def test_a_method_is_refused_where_it_must_be_told_more(needs, detects, message):
    if message is None:
        check_online(Needing(needs), detects=detects)
        return
    with pytest.raises(ConfigError) as caught:
        check_online(Needing(needs), detects=detects)
    assert str(caught.value) == f"trainer.switch: {message}"


class Predicting(nn.Module):
    """Predicts zeros; notes how it was asked."""

    asked = None
    spec = SimpleNamespace(kind=REGRESSION)

    def predictions(self, episodes, steps, *, path):
        self.asked = (len(episodes), steps, path, self.training, torch.is_grad_enabled())
        return torch.stack([torch.full_like(episodes.query.y, 9.0), torch.zeros_like(episodes.query.y)])


class Lines(list):
    def scalars(self, step, values):
        self.append((step, values))


class Two(Ranks):
    """Two processes; the other one's values are 10 times its share."""

    def all_reduce_mean(self, tensors, share):
        for value in tensors:
            value.mul_(share).add_(10 * (1 - share))


def by_itself(*, metric=MSE, detects=True, ranks=ALONE):
    state = SimpleNamespace(
        algorithm=Predicting().train(),
        position=Position(step=6, online=[0.5]),
        detector=Noting(metric) if detects else None,
    )
    sharding = SimpleNamespace(ranks=ranks, own=lambda episodes: (episodes.pick(slice(0, 1)), 0.25))
    return Stream(state, [0, 1, 1, 2], SimpleNamespace(steps=3, metric=metric), sharding, Lines())


class Noting:
    """A detector that detects everything."""

    def __init__(self, metric):
        self.told = []

    def detect(self, round_, loss):
        self.told.append((round_, loss))
        return "ended"

    def observe(self, episodes, loss):
        self.told.append((len(episodes), loss))


def rounds(*values):
    y = torch.tensor(values).view(-1, 1, 1)
    return Episodes(Examples(y[:, :0], y[:, :0]), Examples(y, y))


@pytest.mark.parametrize(("metric", "sign"), [(MSE, 1), (ACCURACY, -1)])
def test_a_round_is_scored_and_shown_to_the_detector(metric, sign):
    stream = by_itself(metric=metric)
    assert stream.look(rounds(2.0, 5.0, 7.0)) == "ended"
    assert stream.state.algorithm.asked == (1, 3, False, False, False)
    assert stream.state.algorithm.training
    stream.observe(rounds(2.0, 5.0, 7.0))
    assert stream.state.detector.told == [(6, sign * 4.0), (3, sign * 4.0)]


def test_without_a_detector_nothing_ends():
    stream = by_itself(detects=False)
    assert stream.look(rounds(2.0)) is None
    stream.observe(rounds(2.0))


def test_scores_are_means_over_the_processes():
    stream = by_itself(ranks=Two(0, 2))
    stream.look(rounds(2.0, 5.0))
    assert stream.state.detector.told == [(6, 4.0 * 0.25 + 7.5)]


def test_each_score_is_logged_once_with_its_round_and_stage():
    stream = by_itself(detects=False)
    stream.log_scores()
    assert stream.log == []
    for value in (1.0, 3.0):
        stream.look(rounds(value))
    stream.log_scores()
    stream.log_scores()
    stream.look(rounds(2.0))
    stream.log_scores()
    assert stream.log == [
        (2, {"online/mse": 1.0, "online/stage": 1}),
        (3, {"online/mse": 9.0, "online/stage": 1}),
        (4, {"online/mse": 4.0, "online/stage": 2}),
    ]
    assert stream.state.position.online == [0.5, 1.0, 9.0, 4.0]
