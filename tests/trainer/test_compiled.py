"""Programs of updates: what the eager computation gives, for every learner, or else the eager computation itself."""

import logging

import numpy as np
import pytest
import runs
import torch
from small import LINE, PICTURES, conv, images, mlp, regression, strided

from metarun.algo.anil import ANIL
from metarun.algo.cavia import CAVIA
from metarun.algo.imaml import IMAML
from metarun.algo.maml import MAML
from metarun.algo.mamlpp import MAMLpp
from metarun.algo.matchingnet import MatchingNet
from metarun.algo.metasgd import MetaSGD
from metarun.algo.protonet import ProtoNet
from metarun.algo.relationnet import RelationNet
from metarun.algo.reptile import Reptile
from metarun.signals import Interrupted
from metarun.trainer.compiled import Programs

LEARNERS = {
    "maml": lambda: MAML(LINE, mlp, 0.1, inner_steps=2),
    "maml, first order": lambda: MAML(LINE, mlp, 0.1, first_order=True),
    "maml on images": lambda: MAML(PICTURES, conv, 0.1),
    "maml, strided, support": lambda: MAML(PICTURES, strided, 0.1, batch_norm="support"),
    "maml, running": lambda: MAML(PICTURES, conv, 0.1, batch_norm="running"),
    "anil": lambda: ANIL(LINE, mlp, 0.1),
    "cavia": lambda: CAVIA(LINE, mlp, 0.1, 5),
    "metasgd": lambda: MetaSGD(LINE, mlp, 0.1),
    "reptile": lambda: Reptile(LINE, mlp, 0.02, 3, inner_steps=3),
    "imaml": lambda: IMAML(LINE, mlp, 0.05, inner_steps=3),
    "mamlpp": lambda: MAMLpp(LINE, mlp, 0.1, inner_steps=2, multi_step=0.0),
    "protonet": lambda: ProtoNet(PICTURES, conv),
    "matchingnet": lambda: MatchingNet(PICTURES, conv),
    "relationnet": lambda: RelationNet(PICTURES, conv),
}


def replayed(trace, inputs):
    """The trace as it is."""
    return trace


def learner(name, chunk=None):
    torch.manual_seed(0)
    algorithm = LEARNERS[name]().double().train()
    algorithm.task_chunk = chunk
    tasks = regression(tasks=5) if algorithm.spec is LINE else images(tasks=5)
    return algorithm, tasks


def update(algorithm, tasks, backward):
    """Losses, gradients and buffers after an update by ``backward``; the buffers are put back."""
    before = [buffer.clone() for buffer in algorithm.buffers()]
    for w in algorithm.parameters():
        w.grad = None
    torch.manual_seed(7)
    losses = backward(tasks)
    gradients = {name: w.grad for name, w in algorithm.named_parameters()}
    buffers = [buffer.clone() for buffer in algorithm.buffers()]
    for buffer, value in zip(algorithm.buffers(), before, strict=True):
        buffer.data.copy_(value)
    return losses, gradients, buffers


def assert_equal(found, expected, tolerance=1e-10):
    for part, right in zip(found, expected, strict=True):
        torch.testing.assert_close(part, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "chunk"), [*((name, None) for name in LEARNERS), ("reptile", 2), ("protonet", 2)])
def test_a_program_gives_what_the_eager_update_gives(name, chunk, caplog):
    algorithm, tasks = learner(name, chunk)
    programs = Programs(algorithm, replayed)
    expected = update(algorithm, tasks, algorithm.backward)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # compiled, then run again
            assert_equal(update(algorithm, tasks, programs.backward), expected)
        others = type(tasks)(*(part._replace(x=part.x.flip(0) * 0.9) for part in (tasks.support, tasks.query)))
        assert_equal(update(algorithm, others, programs.backward), update(algorithm, others, algorithm.backward))
    assert not caplog.records
    assert len(programs._programs) == (1 if chunk is None else 2)  # five tasks: 2, 2 and 1


def test_weights_of_tasks_count_and_weights_that_do_not_learn_have_no_gradient():
    algorithm, tasks = learner("maml")
    tasks.context["weight"] = torch.tensor([0.5, 1.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    first = next(algorithm.parameters())
    first.requires_grad_(False)
    found = update(algorithm, tasks, Programs(algorithm, replayed).backward)
    assert_equal(found, update(algorithm, tasks, algorithm.backward))
    assert next(iter(found[1].values())) is None


def test_gradients_are_added_to_those_that_are_there():
    algorithm, tasks = learner("maml")
    programs = Programs(algorithm, replayed)
    alone = update(algorithm, tasks, programs.backward)[1]
    for w in algorithm.parameters():
        w.grad = torch.ones_like(w)
    programs.backward(tasks)
    for name, w in algorithm.named_parameters():
        torch.testing.assert_close(w.grad, alone[name] + 1)


def test_each_form_of_updates_has_its_program():
    algorithm, _ = learner("maml")
    programs = Programs(algorithm, replayed)
    for tasks in (regression(tasks=3), regression(tasks=4), regression(tasks=3, shots=2), regression(tasks=3)):
        assert_equal(update(algorithm, tasks, programs.backward), update(algorithm, tasks, algorithm.backward))
    assert len(programs._programs) == 3


def eager_for(algorithm, tasks, caplog, build=replayed):
    """Update by programs that are not to be had → the reason logged."""
    programs = Programs(algorithm, build)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_equal(update(algorithm, tasks, programs.backward), update(algorithm, tasks, algorithm.backward))
    (record,) = caplog.records
    begin = "trainer.compile: updates are computed eagerly: "
    assert record.getMessage().startswith(begin)
    return record.getMessage().removeprefix(begin)


def test_a_learner_that_reads_a_value_is_computed_eagerly(caplog):
    class Reads(MAML):
        def losses(self, episodes):
            return super().losses(episodes) * float(episodes.query.y.sum())

    reason = eager_for(Reads(LINE, mlp, 0.1).double(), regression(), caplog)
    assert reason.startswith("they cannot be traced (")
    assert len(reason) < 200


def test_a_learner_that_keeps_a_tensor_beside_its_buffers_is_computed_eagerly(caplog):
    class Keeps(MAML):
        def losses(self, episodes):
            return super().losses(episodes) * self.kept

    algorithm = Keeps(LINE, mlp, 0.1).double()
    object.__setattr__(algorithm, "kept", torch.full((1,), 2.0, dtype=torch.float64))
    reason = eager_for(algorithm, regression(), caplog)
    assert reason == "the learner keeps tensors that are no parameters and no buffers, of shapes (1,)"


@pytest.mark.parametrize(("place", "what"), [(0, "the losses"), (1, "the gradient of network.layers.0.weight")])
def test_a_program_that_gives_something_else_is_not_used(caplog, place, what):
    def wrong(trace, inputs):
        def run(*tensors):
            found = list(trace(*tensors))
            found[place] = found[place] * 1.05
            return found

        return run

    assert eager_for(*learner("maml"), caplog, wrong) == f"{what} would be others than those computed eagerly"


def test_without_a_compiler_updates_are_computed_eagerly(caplog):
    def missing(trace, inputs):
        raise RuntimeError("no C++ compiler\nand more")

    assert eager_for(*learner("maml"), caplog, missing) == "they cannot be compiled (no C++ compiler)"


def test_what_changes_with_every_update_is_not_compiled():
    algorithm, tasks = learner("mamlpp")
    algorithm.multi_step, algorithm.progress = 0.5, 0.1
    programs = Programs(algorithm, replayed)
    programs.backward(tasks)
    assert not programs._programs
    algorithm.progress = 0.6
    programs.backward(tasks)
    assert len(programs._programs) == 1
    again = MAML(LINE, mlp, 0.1, recompute=True)
    assert again.phase is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_inductor_s_program_gives_what_the_eager_update_gives(name, caplog):
    algorithm, tasks = learner(name)
    with caplog.at_level(logging.WARNING):
        found = update(algorithm, tasks, Programs(algorithm).backward)
    assert not caplog.records
    assert_equal(found, update(algorithm, tasks, algorithm.backward))


@pytest.mark.slow
def test_a_compiled_run_that_was_interrupted_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole = runs.run_in(tmp_path / "whole", "trainer.compile=on", "trainer.iterations=60")
    eager = runs.run_in(tmp_path / "eager", "trainer.compile=off", "trainer.iterations=60")
    from metarun.trainer.stopping import Stopping

    check, calls = Stopping.caught, iter(range(1000))
    monkeypatch.setattr(Stopping, "caught", lambda self, due: (15, True) if next(calls) == 30 else check(self, due))
    with pytest.raises(Interrupted):
        runs.run_in(tmp_path / "stopped", "trainer.compile=on", "trainer.iterations=60")
    resumed = runs.run_in(tmp_path / "stopped", "trainer.compile=on", "trainer.iterations=60")
    assert resumed["train"]["resumed_at"]
    runs.assert_same(runs.weights(tmp_path / "stopped"), runs.weights(tmp_path / "whole"))
    assert resumed["test"] == whole["test"]
    assert np.isclose(whole["test"]["mse"]["mean"], eager["test"]["mse"]["mean"], rtol=1e-3)
