"""Learning without forgetting (Li and Hoiem, ECCV 2016): on new inputs, preserve the learner's outputs from before the stage."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod, Needs, reweight, unmasked
from metarun.config import require
from metarun.data.source import Stage
from metarun.episodes import Episodes


class LwF(ContinualMethod):
    """Distils the learner from the end of the previous stage on the tasks of the new stage; no data are stored.

    The loss is (1 − s) · loss on the new labels + s · distillation, the cross entropy of the softened probabilities (equations 2
    and 3 of the paper, without the factor T² of Hinton et al. 2015). If past stages have their own outputs (scenario "task"),
    these are distilled stage by stage and averaged; otherwise all outputs are distilled at once. Regression uses the squared error
    of the outputs.

    With s = (t − 1) / t the two terms have weights 1 : t − 1. This is the paper's loss for λ_o = 1, which sums over the old tasks,
    and that of van de Ven et al. (2022) for task- and domain-incremental learning, up to the overall factor 1 / t. For
    class-incremental learning they use 1 : 1 in every stage, which is s = 1/2 (configs/presets/lwf_split_mnist.yaml).

    Args:
        temperature: T of the softened probabilities.
        share: s, the weight of the distillation in the loss; null: (t − 1) / t in stage t.
    """

    needs: Needs = "boundaries"
    sees_tasks = True

    def __init__(self, temperature: float = 2.0, share: float | None = None) -> None:
        require(temperature > 0, "temperature", temperature, "a number above 0")
        require(share is None or 0 < share < 1, "share", share, "a number between 0 and 1, or null")
        self.temperature, self.share = temperature, share
        self.teacher: Algorithm | None = None

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        self.learner = algorithm

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        if stage:
            self.teacher = deepcopy(algorithm).eval().requires_grad_(False)

    def enter(self, stage: int) -> None:
        super().enter(stage)
        contexts = (s.train.sample(torch.arange(1)).context for s in self.stages[:stage])
        masks = [context["active"] for context in contexts if "active" in context]
        self.masks = torch.stack(masks).unsqueeze(1) if masks else None  # (stages, 1, 1, outputs)

    def mix(self, episodes: Episodes) -> Episodes:
        return reweight(episodes, 1 - self._share()) if self.teacher else episodes

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        if self.teacher is None:
            return None
        plain = unmasked(episodes)
        with torch.no_grad():
            targets, _ = self.teacher.outputs_and_targets(plain)
        outputs, _ = algorithm.outputs_and_targets(plain)
        if not algorithm.spec.kind.classes:
            return self._share() * F.mse_loss(outputs, targets)
        if self.masks is not None:
            targets, outputs = (logits.masked_fill(~self.masks, -torch.inf) for logits in (targets, outputs))
        before = (targets / self.temperature).softmax(-1)
        now = (outputs / self.temperature).log_softmax(-1)
        term = -(before * now.masked_fill(before == 0, 0.0)).sum(-1).mean()  # 0 · log 0 is 0
        return self._share() * term

    def _share(self) -> float:
        return self.share or self.stage / (self.stage + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict() if self.teacher else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["teacher"] is not None:
            self.teacher = deepcopy(self.learner).eval().requires_grad_(False)
            self.teacher.load_state_dict(state["teacher"])
