"""The parts of a training and what they are given."""

import time

import pytest
import torch
from shared_out import made
from updates import SGD

from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.ranks import ALONE
from metarun.signals import Signals
from metarun.tracking import NoLog, RunFolder
from metarun.trainer import compiled
from metarun.trainer.assembly import assemble, initial_state
from metarun.trainer.online import stages_of_rounds
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding


class Method(ContinualMethod):
    """Notes what it was told when it started."""

    def on_start(self, algorithm, stages):
        super().on_start(algorithm, stages)
        self.told = (algorithm, self.seed, self.announced)


class Boundaries(Method):
    needs = "boundaries"


def state_of(method=None, **keys):
    stages, algorithm = made("maml", "sine")
    settings = Settings(7, **{"iterations": 4, "tasks": 3, "optimizer": SGD | {"lr": 1.0}} | keys)
    return initial_state(settings, algorithm, stages, method or Method()), settings, stages


def test_a_state_begins_with_the_stages_as_given():
    state, _, stages = state_of(keep_best=3)
    assert state.method.told == (state.algorithm, 7, True)
    assert state.method.stages is state.stages
    assert (state.stages, state.given) == (stages, stages)
    assert state.stages is not state.given  # the data's own list stays in its order
    assert (state.position.order, state.position.step, state.iterations) == ([0, 1], 0, 4)
    assert (state.best.keep, state.best.position) == (3, state.position)
    assert (state.guard, state.detector) == (None, None)
    assert state.losses.learner.device == torch.device("cpu")
    assert {id(w) for w in state.optimizer.torch.param_groups[0]["params"]} == {id(w) for w in state.algorithm.parameters()}


def test_a_stream_is_unannounced_and_its_schedule_falls_once():
    state, *_ = state_of(switch=0.5, detect=2.5, scheduler="linear", nonfinite="skip", method=Boundaries())
    assert state.method.told[2] is False
    assert state.detector.threshold == 2.5
    assert (state.guard.algorithm, state.guard.optimizer) == (state.algorithm, state.optimizer.torch)
    assert state.optimizer.scheduler.total_iters == 8
    assert state_of(scheduler="linear")[0].optimizer.scheduler.total_iters == 4
    with pytest.raises(ConfigError, match=r"^trainer\.switch: Boundaries must be told when a stage ends"):
        state_of(switch=0.5, method=Boundaries())


def test_a_learner_that_trains_nothing_makes_no_updates():
    stages, algorithm = made("scratch", "sine")
    settings = Settings(0, iterations=4, tasks=3, optimizer=SGD, scheduler="linear")
    state = initial_state(settings, algorithm, stages, ContinualMethod())
    assert (state.iterations, state.total) == (0, 0)
    with pytest.raises(ConfigError, match=r"^cl: Scratch trains nothing, so there is nothing to keep; choose cl=none$"):
        initial_state(settings, algorithm, stages, Method())


def test_losses_are_summed_on_the_learners_device():
    stages, algorithm = made("maml", "sine")
    settings = Settings(0, iterations=4, tasks=3, optimizer=SGD)
    state = initial_state(settings, algorithm.to("meta"), stages, ContinualMethod())
    assert state.losses.learner.device.type == "meta"


@pytest.mark.parametrize("compile_", ["on", "off"])
def test_updates_run_compiled_programs_where_they_are_asked_for(compile_, tmp_path, monkeypatch):
    ran = []

    class Programs:
        def __init__(self, algorithm):
            self.algorithm = algorithm

        def backward(self, episodes):
            ran.append(self.algorithm)
            return self.algorithm.backward(episodes)

    monkeypatch.setattr(compiled, "Programs", Programs)
    state, settings, stages = state_of(compile=compile_)
    sharding = Sharding(state.algorithm, state.method, settings, ALONE)
    loop = assemble(settings, state, sharding, RunFolder(tmp_path), "", NoLog(), ALONE, Signals(), time.monotonic)
    loop.update(stages[0].train.sample(torch.arange(3)))
    assert ran == ([state.algorithm] if compile_ == "on" else [])


@pytest.mark.parametrize("online", [False, True])
def test_every_part_has_what_it_needs(online, tmp_path):
    keys = {"switch": 0.5} if online else {}
    state, settings, _ = state_of(report_steps="last", checkpoint_every=9.0, reset_optimizer=True, nonfinite="skip", **keys)
    sharding = Sharding(state.algorithm, state.method, settings, ALONE)
    folder, log, signals, clock = RunFolder(tmp_path), NoLog(), Signals(), time.monotonic
    loop = assemble(settings, state, sharding, folder, "digest", log, ALONE, signals, clock)
    assert (loop.settings, loop.state, loop.folder) == (settings, state, folder)
    assert (loop.draws.seed, loop.draws.device) == (7, torch.device("cpu"))
    assert (loop.feed.tasks, loop.feed.sharding, loop.feed.ahead) == (3, sharding, 64)
    update = loop.update
    assert (update.algorithm, update.method, update.optimizer) == (state.algorithm, state.method, state.optimizer)
    assert (update.settings, update.sharding, update.guard) == (settings, sharding, state.guard)
    assert update.guard is not None
    tester = loop.tester
    assert (tester.settings, tester.state, tester.log, tester.ranks) == (settings, state, log, ALONE)
    assert tester.check == loop.stopping.check
    assert (tester.headline.chosen_by, tester.headline.eval_steps) == ("last", state.algorithm.eval_steps(state.algorithm.steps))
    assert (loop.order.settings, loop.order.state, loop.order.tester, loop.order.log) == (settings, state, tester, log)
    boundary = loop.boundary
    assert (boundary.state, boundary.draws, boundary.log) == (state, loop.draws, log)
    assert (boundary.reset_optimizer, boundary.restart_schedule) == (True, not online)
    validation, meter = loop.validation, loop.meter
    assert (validation.state, validation.tester, validation.meter, validation.log) == (state, tester, meter, log)
    assert (meter.settings, meter.state, meter.log, meter.ranks, meter.clock) == (settings, state, log, ALONE, clock)
    of = loop.snapshots
    assert (of.folder, of.source, of.state, of.log, of.ranks, of.every, of.clock) == (
        folder,
        "digest",
        state,
        log,
        ALONE,
        9.0,
        clock,
    )
    assert (loop.stopping.signals, loop.stopping.ranks, loop.stopping.state) == (signals, ALONE, state)
    if not online:
        assert loop.stream is None
        return
    stream = loop.stream
    assert stream.rounds == stages_of_rounds(7, 8, 2, 0.5)
    assert (stream.state, stream.headline, stream.sharding, stream.log) == (state, tester.headline, sharding, log)
