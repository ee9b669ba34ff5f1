"""Experience replay (Chaudhry et al., "On tiny episodic memories in continual learning", 2019): also train on stored tasks."""

from collections.abc import Mapping
from typing import Literal

import torch

from metarun.algo.algorithm import Algorithm
from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import reweight
from metarun.config import require
from metarun.data.source import Stage
from metarun.episodes import Episodes, join


class Replay(RehearsalMethod):
    """Each update mixes stored tasks with new ones.

    Args:
        size: number of tasks (examples) to store, per stage or in total.
        keep: "per_stage": drawn from each stage's data when it ends; "reservoir": from all training tasks; null: "per_stage",
            or "reservoir" if stage boundaries are not announced.
        draw: number of stored tasks in an update; null: as many as new tasks.
        share: weight of the memory in the loss; null: equal weight for all stages, (t − 1) / t in stage t (van de Ven et al.
            2022), or 1/2 if stage boundaries are not announced.
    """

    sees_tasks = True
    observes = True

    def __init__(
        self,
        size: int = 200,
        keep: Literal["per_stage", "reservoir"] | None = None,
        draw: int | None = None,
        share: float | None = None,
    ) -> None:
        super().__init__(size, draw)
        require(share is None or 0 < share < 1, "share", share, "a number between 0 and 1, or null")
        self.keep, self.share = keep, share
        self.needs = "boundaries" if keep == "per_stage" else "nothing"

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        self.keep = self.keep or ("per_stage" if self.announced else "reservoir")

    def mix(self, episodes: Episodes) -> Episodes:
        if not len(self.memory) or (self.announced and not self.stage):
            return episodes
        new, old = len(episodes), self.number or len(episodes)
        share = self.share or (self.stage / (self.stage + 1) if self.announced else 0.5)
        shares = torch.full((new + old,), (1 - share) / new, device=self.device)
        shares[new:] = share / old
        stored = reweight(self.memory.draw(old), 1.0)
        return reweight(join([reweight(episodes, 1.0), stored]), shares * (new + old))

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        if self.keep == "reservoir":
            self.memory.offer(episodes, self.size)

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float]:
        if self.keep == "per_stage":
            self.memory.add_some(stage, self.size)
        return {"memory": len(self.memory)}
