"""What `Trainer.fit` puts together, and what it leaves behind."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from shared_out import made
from updates import SGD

from metarun.cl.method import ContinualMethod
from metarun.ranks import ALONE, Ranks
from metarun.signals import Signals
from metarun.tracking import NoLog, RunFolder
from metarun.trainer import trainer as module
from metarun.trainer.trainer import Trainer


@pytest.fixture
def parts(monkeypatch):
    """What the parts were given; the loop's outcome is "outcome"."""
    found = SimpleNamespace(restored=5, terminal=False, redirected=0, outcome="outcome")

    def restore(*given):
        found.restore = given
        given[0].position.step = 3
        return found.restored

    def assemble(*given):
        found.assemble = given
        return SimpleNamespace(run=run)

    def run():
        log, signals = found.assemble[5], found.assemble[7]
        found.during = (log.closed, signals.entered, found.redirected)
        if isinstance(found.outcome, Exception):
            raise found.outcome
        return found.outcome

    class Log:
        closed = False

        def __init__(self, *given, **keys):
            found.log = (given, keys)

        def close(self):
            self.closed = True

    class Caught(Signals):
        entered = False

        def __enter__(self):
            self.entered = True
            return self

        def __exit__(self, *_):
            self.entered = False

    @contextmanager
    def redirect():
        found.redirected += 1
        yield

    NoLog.closed = False
    for name, part in {
        "restore": restore,
        "assemble": assemble,
        "Log": Log,
        "Signals": Caught,
        "logging_redirect_tqdm": redirect,
    }.items():
        monkeypatch.setattr(module, name, part)
    monkeypatch.setattr(module, "has_terminal", lambda: found.terminal)
    found.signals = Caught()
    yield found
    del NoLog.closed
    torch.set_float32_matmul_precision("highest")


def fit(path, ranks=ALONE, *, given=None, **keys):
    stages, algorithm = made("maml", "sine")
    trainer = Trainer(2, iterations=1, tasks=4, optimizer=SGD, **{"tensorboard": False} | keys)
    folder, method = RunFolder(path), ContinualMethod()
    outcome = trainer.fit(algorithm, stages, method, folder, "digest", ranks, **(given or {}))
    return outcome, (trainer, algorithm, stages, method, folder)


def test_the_parts_are_put_together(parts, tmp_path):
    clock = lambda: 0.0  # noqa: E731
    outcome, (trainer, algorithm, stages, method, folder) = fit(tmp_path, given={"signals": parts.signals, "clock": clock})
    assert outcome == "outcome"
    settings, state, sharding, *others = parts.assemble
    assert (settings, state.algorithm, state.given, state.method) == (trainer, algorithm, stages, method)
    assert (sharding.ranks, sharding.tasks, sharding.samples_shard) == (ALONE, 4, True)
    assert parts.restore == (state, folder, ALONE)
    assert parts.log == ((folder, 3), {"tensorboard": False, "lines": 5})
    log = others[2]
    assert others == [folder, "digest", log, ALONE, parts.signals, clock]
    assert parts.during == (False, True, 0)  # open, and signals are caught
    assert (log.closed, parts.signals.entered) == (True, False)


def test_what_is_not_given(parts, tmp_path):
    parts.restored, parts.terminal = None, True
    fit(tmp_path, tensorboard=True)
    assert parts.log[1] == {"tensorboard": True, "lines": None}
    assert parts.during == (False, True, 1)  # lines go above the bar
    assert parts.assemble[-1] is time.perf_counter


def test_the_log_is_closed_after_an_error(parts, tmp_path):
    parts.outcome = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        fit(tmp_path)
    assert parts.assemble[5].closed


def test_the_first_process_alone_logs(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(NoLog, "close", lambda log: setattr(NoLog, "closed", True), raising=False)
    ranks = Ranks(1, 2)
    fit(tmp_path, ranks)
    assert isinstance(parts.assemble[5], NoLog)
    assert not hasattr(parts, "log")
    assert parts.assemble[2].ranks is ranks is parts.restore[2] is parts.assemble[6]


@pytest.mark.parametrize(("precision", "matmul"), [("tf32", "high"), ("float32", "highest"), ("bfloat16", "highest")])
def test_matrix_products_have_the_precision(precision, matmul, parts, tmp_path):
    torch.set_float32_matmul_precision("medium")  # of a run before
    fit(tmp_path, precision=precision)
    assert torch.get_float32_matmul_precision() == matmul
