"""A-GEM (Chaudhry et al., ICLR 2019): no update may raise the loss on the memory, to the first order."""

from collections.abc import Mapping

import torch

from metarun.algo.algorithm import Algorithm
from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import Needs
from metarun.data.source import Stage
from metarun.episodes import Episodes


class AGEM(RehearsalMethod):
    """Where the gradient points against that of remembered tasks, the part that does is taken out (equation 11 of the paper).

    Args:
        size: tasks (examples) of each stage to keep.
        draw: remembered tasks in an update; null: as many as new ones.
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
