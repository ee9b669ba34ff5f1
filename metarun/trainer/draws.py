"""Torch's random generator as a function of the run's seed and the step, so that a resumed run draws the same numbers."""

import torch

from metarun.rng import derive


class Draws:
    """Seeds torch's generators, from which dropout, initial weights and continual methods draw.

    Args:
        seed: of the run.
        device: of the learner.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device

    def reseed(self, step: int, *purpose: str) -> None:
        """For the update after ``step`` updates, or for another ``purpose`` at that step, whose draws are independent of it."""
        seed = derive(self.seed, "torch", step, *purpose)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
