"""A-GEM (Chaudhry et al., ICLR 2019): to first order, no update may increase the loss on the memory."""

from collections.abc import Mapping

import torch

from metarun.algo.algorithm import Algorithm
from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import Needs
from metarun.data.source import Stage
from metarun.episodes import Episodes


class AGEM(RehearsalMethod):
    """If the gradient conflicts with that of stored tasks, its component along the latter is removed (equation 11 of the paper).

    Args:
        size: number of tasks (examples) to store per stage.
        draw: number of stored tasks in an update; null: as many as new tasks.
    """

    sees_tasks = True
    needs: Needs = "boundaries"

    def __init__(self, size: int = 200, draw: int | None = None) -> None:
        super().__init__(size, draw)
        self.batch = 0

    def mix(self, episodes: Episodes) -> Episodes:
        self.batch = self.number or len(episodes)
        return episodes

    def project(self, algorithm: Algorithm) -> None:
        if not len(self.memory):
            return
        weights = [w for w in algorithm.parameters() if w.grad is not None]
        own = [w.grad for w in weights]
        algorithm.zero_grad()
        algorithm.backward(self.memory.draw(self.batch))
        old = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        pairs = [(g, o) for g, o in zip(own, old, strict=True) if g is not None]
        along = torch.stack([(g * o).sum() for g, o in pairs]).sum()
        length = torch.stack([o.square().sum() for o in old]).sum()
        excess = along.clamp(max=0) / length.clamp(min=1e-30)
        algorithm.zero_grad()
        for w, (g, o) in zip(weights, pairs, strict=True):
            w.grad = g - excess * o

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float]:
        self.memory.add_some(stage, self.size)
        return {"memory": len(self.memory)}
