"""Synaptic intelligence (Zenke, Poole and Ganguli, ICML 2017): importance from the training trajectory."""

from typing import Any, Literal

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.cl.penalty import QuadraticPenalty, Switch, to
from metarun.config import require
from metarun.data.source import Stage
from metarun.episodes import Episodes
from metarun.model.network import Weights


class SI(QuadraticPenalty):
    """c · Σ Ω (θ − θ*)², equation 4 of the paper, with Ω from the path integral of the loss's gradient, equation 5.

    The code of van de Ven et al. (2022) integrates a different gradient; a strength chosen with it requires ``path`` "total".

    Args:
        strength: c.
        damping: ξ, which bounds the importance of weights that hardly move.
        path: the gradient to integrate. "loss": of the loss without this penalty, as in the paper; negative contributions of a
            weight to the decrease of the loss are set to 0, which keeps the penalty convex. "total": of the loss with this
            penalty, keeping negative contributions, as in the code of van de Ven et al.
        consolidate, penalise: see `QuadraticPenalty`.
    """

    sees_tasks = False
    observes = True

    def __init__(
        self,
        strength: float,
        damping: float = 0.1,
        path: Literal["loss", "total"] = "loss",
        consolidate: Switch = True,
        penalise: Switch = True,
    ) -> None:
        super().__init__(strength, consolidate, penalise)
        require(damping > 0, "damping", damping, "a number above 0")
        self.damping, self.total = damping, path == "total"
        self.path: Weights = {}
        """The decrease of the loss in this stage due to each weight's changes."""
        self.begin: Weights = {}
        """The weights at the start of the stage."""
        self.before: dict[str, tuple[Tensor, Tensor]] = {}
        """Weights and gradients before the optimizer's step of this update."""

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        self.begin = {name: w.detach().clone() for name, w in algorithm.named_parameters()}
        self.path = {name: torch.zeros_like(w) for name, w in self.begin.items()}

    def gradient(self, algorithm: Algorithm) -> None:
        if self.total:
            super().gradient(algorithm)
        moving = {name: w for name, w in algorithm.named_parameters() if w.grad is not None}
        self.before = {name: (w.detach().clone(), w.grad.clone()) for name, w in moving.items() if w.grad is not None}
        if not self.total:
            super().gradient(algorithm)

    def curvature(self, algorithm: Algorithm) -> Weights:
        # Along negative curvature the step stays explicit; an implicit one could divide by 0.
        return {name: c.clamp(min=0) for name, c in super().curvature(algorithm).items()}

    @torch.no_grad()
    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        weights = dict(algorithm.named_parameters())
        for name, (before, gradient) in self.before.items():
            self.path[name].addcmul_(gradient, weights[name] - before, value=-1)

    @torch.no_grad()
    def measure(self, algorithm: Algorithm, stage: Stage) -> Weights:
        moved = {name: w - self.begin[name] for name, w in algorithm.named_parameters()}
        # Factor 2: the paper's penalty has no factor 1/2. The integrated gradients are `gradient_scale` times the loss's.
        twice = 2 / algorithm.gradient_scale
        paths = self.path if self.total else {name: path.clamp(min=0) for name, path in self.path.items()}
        return {name: twice * path / (moved[name].square() + self.damping) for name, path in paths.items()}

    def remember(self, importance: Weights, weights: Weights) -> None:
        self.move_anchor(importance, weights)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"path": self.path, "begin": self.begin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.path, self.begin = to(state["path"], self.device), to(state["begin"], self.device)
