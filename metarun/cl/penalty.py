"""The base of the regularisation methods: one quadratic penalty around past weights, whatever the number of stages."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod, Needs
from metarun.config import require
from metarun.data.source import Stage
from metarun.model.network import Weights

Switch = bool | list[bool]
"""On or off in all stages, or one value per stage."""


class QuadraticPenalty(ContinualMethod):
    """Adds strength / 2 · Σ importance · (weight − anchor)² to the outer loss, through its gradient.

    Under `torch.optim.SGD` the step on the quadratic is implicit, so that it cannot diverge at any strength (see `implicit`). Other
    optimizers use the plain gradient: Adam's step is bounded by its learning rate, and published strengths assume it. The learner's
    `gradient_scale` multiplies the gradient, but not the logged value.

    Weights that are separate for each stage (`per_stage`) are left out. The sum of the stages' quadratics is again a quadratic, up
    to a constant: importances add, and the anchor is their weighted mean. Memory and time therefore do not grow with the number of
    stages. Subclasses measure the importances.

    Args:
        strength: of the penalty.
        consolidate: whether to measure the importances at the end of a stage; a list has one value per stage.
        penalise: whether to apply the penalty in a stage; a list has one value per stage.
    """

    needs: Needs = "boundaries"

    def __init__(self, strength: float, consolidate: Switch = True, penalise: Switch = True) -> None:
        require(strength >= 0, "strength", strength, "0 or more")
        for key, switch in {"consolidate": consolidate, "penalise": penalise}.items():
            require(switch != [], key, switch, "true, false, or a list of them")
        self.strength, self.consolidate, self.penalise = strength, consolidate, penalise
        self.importance: Weights = {}
        self.anchor: Weights = {}

    def measure(self, algorithm: Algorithm, stage: Stage) -> Weights:
        """The importance of each weight to ``stage``, by parameter name."""
        raise NotImplementedError

    def remember(self, importance: Weights, weights: Weights) -> None:
        """Add the ``importance`` measured at ``weights`` to the penalty; here as a separate term."""
        self.add_term(importance, weights)

    def add_term(self, importance: Weights, weights: Weights) -> None:
        """Add a term to the sum over stages: importances add, and the anchor moves to their weighted mean."""
        for name, new in importance.items():
            total = self.importance[name] + new if name in self.importance else new
            before = self.anchor.get(name, weights[name])
            # Where the total importance is 0 the anchor has no effect; 0 / 0 is replaced by the present weight.
            part = torch.where(total > 0, new / total, 1.0)
            self.importance[name], self.anchor[name] = total, before.lerp(weights[name], part)

    def move_anchor(self, importance: Weights, weights: Weights, decay: float = 1.0) -> None:
        """Keep a single term around the latest weights; earlier importances are multiplied by ``decay``."""
        for name, new in importance.items():
            self.importance[name] = decay * self.importance[name] + new if name in self.importance else new
            self.anchor[name] = weights[name].clone()

    @torch.no_grad()
    def penalty(self, algorithm: Algorithm) -> Tensor | None:
        """Strength / 2 · Σ importance · (weight − anchor)², (), which is the sum of the stages' terms up to a constant."""
        terms = [(self.importance[name] * (w - self.anchor[name]).square()).sum() for name, w in self._held(algorithm)]
        return self.strength / 2 * torch.stack(terms).sum() if terms else None

    @torch.no_grad()
    def gradient(self, algorithm: Algorithm) -> None:
        strength = self.strength * algorithm.gradient_scale
        for name, weight in self._held(algorithm):
            pull = self.importance[name] * (weight - self.anchor[name])
            weight.grad = strength * pull if weight.grad is None else weight.grad.add_(pull, alpha=strength)

    def curvature(self, algorithm: Algorithm) -> Weights:
        strength = self.strength * algorithm.gradient_scale
        return {name: strength * self.importance[name] for name, _ in self._held(algorithm)}

    def _held(self, algorithm: Algorithm) -> Iterator[tuple[str, Tensor]]:
        """The weights that are penalised in this stage."""
        if is_on(self.penalise, self.stage):
            for name, weight in algorithm.named_parameters():
                if name in self.importance and weight.requires_grad:
                    yield name, weight

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float] | None:
        if not is_on(self.consolidate, self.stage):
            return None
        importance = {name: f for name, f in self.measure(algorithm, stage).items() if name not in self.per_stage}
        self.remember(importance, {name: w.detach().clone() for name, w in algorithm.named_parameters()})
        return {
            "importance_trace": float(sum(f.double().sum() for f in importance.values())),
            "importance_max": float(max(f.max() for f in importance.values())),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"importance": dict(self.importance), "anchor": dict(self.anchor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.importance = to(state["importance"], self.device)
        self.anchor = to(state["anchor"], self.device)


def is_on(switch: Switch, stage: int) -> bool:
    """Whether ``switch`` is on in stage ``stage``; beyond the end of a list its last value holds."""
    return switch if isinstance(switch, bool) else switch[min(stage, len(switch) - 1)]


def to(tensors: Mapping[str, Tensor], device: torch.device) -> Weights:
    """``tensors`` on ``device``."""
    return {name: value.to(device) for name, value in tensors.items()}
