"""Tests a learner on a fixed, numbered list of tasks, the same for every algorithm, so that comparisons are paired."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from metarun.algo.algorithm import Algorithm, eval_mode
from metarun.data.source import TaskSource
from metarun.episodes import Episodes
from metarun.model.network import Weights
from metarun.ranks import ALONE, Ranks

CHUNK_VALUES = 2**20
"""Values, of inputs or held by the learner, that are tested at once if `task_chunk` is null: bounds memory, costs no time."""


def evaluate(
    algorithm: Algorithm,
    source: TaskSource,
    tasks: int,
    *,
    path: bool = True,
    steps: int | None = None,
    ensemble: list[Weights] | None = None,
    on_chunk: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> NDArray[np.float64]:
    """Score of each task after each step of the learner's `eval_steps`, (eval steps, tasks).

    (1, tasks) for learners without inner steps, or without ``path``.

    The score is the metric of the tasks' kind. Training state is left untouched: no statistics are written, and the learner's
    mode is put back.

    Args:
        algorithm: the learner, with its weights.
        source: of the tasks 0 … ``tasks`` - 1.
        tasks: how many; all of a source that has fewer.
        path: score after fewer inner steps, too.
        steps: inner steps to take; None: as many as the learner takes in a test.
        ensemble: states of the learner whose predictions are averaged; None: its present state alone.
        on_chunk: called before each chunk of tasks, and may raise to stop.
        ranks: the processes that divide the tasks; each receives all scores.
    """
    tasks = min(tasks, source.count or tasks)
    steps = algorithm.steps if steps is None else steps
    size = _chunk(algorithm, source.sample(torch.arange(1)))
    scores = []
    with testing(algorithm):
        for ids in torch.arange(tasks).split(size * ranks.size):
            on_chunk()
            own = ids[ranks.shard(len(ids))]
            if not len(own):
                continue
            episodes = source.sample(own)
            predictions = [algorithm.predictions(episodes, steps, path=path) for _ in _each_state(algorithm, ensemble)]
            mean = predictions[0] if len(predictions) == 1 else torch.stack(predictions).mean(0)
            scores.append(algorithm.spec.kind.scores(mean, episodes.query.y).double().cpu())
    # All processes' scores of one chunk come before those of the next, so that tasks keep their order.
    parts = zip_longest(*ranks.gather(scores))
    return torch.cat([part for piece in parts for part in piece if part is not None], 1).numpy()


def probe(algorithm: Algorithm, source: TaskSource, tasks: int) -> dict[str, NDArray[np.float64]]:
    """Results of `Algorithm.probe` on the tasks 0 … ``tasks`` - 1, by name, the task axis first."""
    tasks = min(tasks, source.count or tasks)
    size = _chunk(algorithm, source.sample(torch.arange(1)))
    with testing(algorithm):
        parts = [algorithm.probe(source.sample(ids)) for ids in torch.arange(tasks).split(size)]
    return {name: torch.cat([part[name].double().cpu() for part in parts]).numpy() for name in parts[0]}


@contextmanager
def testing(algorithm: Algorithm) -> Iterator[None]:
    """Evaluation mode without gradients during the block."""
    with eval_mode(algorithm), torch.no_grad():
        yield


def _each_state(algorithm: Algorithm, ensemble: list[Weights] | None) -> Iterator[None]:
    """Load each state of the ensemble into the learner in turn, then its own again."""
    if ensemble is None:
        yield
        return
    own = {name: value.clone() for name, value in algorithm.state_dict().items()}
    for state in ensemble:
        algorithm.load_state_dict(state)
        yield
    algorithm.load_state_dict(own)


def work_of(algorithm: Algorithm, one: Episodes) -> int:
    """Floating-point operations of the network's pass over the support and queries of the task ``one``.

    They are counted and not timed, so that the result is reproducible.
    """
    with testing(algorithm), FlopCounterMode(display=False) as counter:
        algorithm.network_pass(one)
    return int(counter.get_total_flops())


def _chunk(algorithm: Algorithm, one: Episodes) -> int:
    if algorithm.task_chunk is not None:
        return algorithm.task_chunk
    values = max(one.support.x.numel() + one.query.x.numel(), algorithm.held)
    return max(1, min(1000, CHUNK_VALUES // values))
