"""An online stream: stages change unannounced, and every round is scored before its labels are trained on."""

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.data.source import Stage
from metarun.episodes import Episodes
from metarun.rng import bits, derive, uniform
from metarun.tracking import Log
from metarun.trainer.evaluation import testing
from metarun.trainer.headline import Headline
from metarun.trainer.runstate import RunState
from metarun.trainer.sharding import Sharding


def stages_of_rounds(seed: int, rounds: int, stages: int, switch: float) -> list[int]:
    """Number of the stage that each round's tasks come from.

    The first is 0; before each later round the stage changes with probability ``switch``, to any of the others. A round's stage
    is a function of the seed and of the rounds up to it, whatever ``rounds`` is.
    """
    changes = (uniform(derive(seed, "switch"), torch.arange(rounds), 1)[:, 0] < switch).tolist()
    steps = (1 + bits(derive(seed, "next stage"), torch.arange(rounds), 1)[:, 0] % max(stages - 1, 1)).tolist()
    sequence = [0]
    for change, step in zip(changes[1:], steps[1:], strict=True):
        sequence.append((sequence[-1] + step) % stages if change else sequence[-1])
    return sequence[:rounds]


def stretches(rounds: list[int], start: int) -> Iterator[tuple[int, int, int]]:
    """From round ``start`` on: number of a stage, and the first and the end of the rounds that follow one another in it."""
    for stage, group in groupby(range(start, len(rounds)), key=rounds.__getitem__):
        members = list(group)
        yield stage, members[0], members[-1] + 1


def check_online(method: ContinualMethod, *, detects: bool) -> None:
    """Refuse a method that must be told more than an online stream tells.

    Raises:
        ConfigError: it needs the stages, or boundaries where none are detected.
    """
    name = type(method).__name__
    if method.needs == "stages":
        raise ConfigError(f"trainer.switch: {name} must be told the stage, and nobody announces it")
    if method.needs == "boundaries" and not detects:
        raise ConfigError(f"trainer.switch: {name} must be told when a stage ends; trainer.detect=4 guesses it")


class Stream:
    """Looks at the new tasks of each round before the update.

    Args:
        state: of the run.
        rounds: number of each round's stage.
        headline: after how many inner steps a round is scored.
        sharding: which tasks of a round this process scores.
        log: for the scores.
    """

    def __init__(self, state: RunState, rounds: list[int], headline: Headline, sharding: Sharding, log: Log) -> None:
        self.state, self.rounds, self.headline, self.sharding, self.log = state, rounds, headline, sharding, log
        self._unlogged: list[Tensor] = []
        self._loss = float("nan")

    def look(self, episodes: Episodes) -> Stage | None:
        """Score the learner on ``episodes``; the stage that has ended, if a boundary is detected before them."""
        own, share = self.sharding.own(episodes)
        with testing(self.state.algorithm):
            predicted = self.state.algorithm.predictions(own, self.headline.steps, path=False)[-1]
            score = self.state.algorithm.spec.kind.scores(predicted, own.query.y).mean()
        self.sharding.ranks.all_reduce_mean([score], share)
        self._unlogged.append(score)
        if self.state.detector is None:
            return None
        self._loss = -self.headline.metric.sign * float(score)
        return self.state.detector.detect(self.state.position.step, self._loss)

    def observe(self, episodes: Episodes) -> None:
        """Show the detector ``episodes``, at which `look` has looked, as tasks of the present stage."""
        if self.state.detector is not None:
            self.state.detector.observe(episodes, self._loss)

    def log_scores(self) -> None:
        """A line for each round since the last call: its score, and the stage that nobody was told."""
        if not self._unlogged:
            return
        scores = self.state.position.online
        for number, score in enumerate(torch.stack(self._unlogged).tolist(), len(scores)):
            self.log.scalars(number + 1, {f"online/{self.headline.metric.name}": score, "online/stage": self.rounds[number]})
            scores.append(score)
        self._unlogged.clear()
