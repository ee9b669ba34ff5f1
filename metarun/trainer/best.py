"""Selection of the weights that were best on validation."""

from metarun.algo.algorithm import Algorithm
from metarun.model.network import Weights
from metarun.trainer.state import Position


class BestWeights:
    """Keeps the weights with the best validation scores since the stage began.

    Args:
        keep: how many.
        position: of the run, which has their scores and steps.
    """

    def __init__(self, keep: int, position: Position) -> None:
        self.keep, self.position = keep, position
        self.states: list[Weights] = []
        """States of the learner, best first."""

    def offer(self, algorithm: Algorithm, score: float) -> None:
        """Keep the present weights if their ``score``, the higher the better, is among the best; of equals the earlier."""
        best = self.position.best
        place = sum(score <= other for other, _ in best)
        if place < self.keep:
            best.insert(place, (score, self.position.step))
            self.states.insert(place, {name: value.clone() for name, value in algorithm.state_dict().items()})
            del best[self.keep :], self.states[self.keep :]

    def clear(self) -> None:
        """Forget all; a new stage begins."""
        self.position.best, self.states = [], []

    @property
    def steps(self) -> list[int]:
        """Steps of the weights kept, best first."""
        return [step for _, step in self.position.best]
