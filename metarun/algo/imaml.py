"""Implicit MAML (Rajeswaran, Finn, Kakade and Levine, NeurIPS 2019)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import GradientLearner
from metarun.algo.rules import Descent, Rule
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.network import NetworkFactory, Weights
from metarun.model.norm import Norm


class IMAML(GradientLearner):
    """MAML whose outer gradient needs the inner loop's end alone: memory does not grow with inner steps (Algorithms 1 and 2).

    The inner loop descends the support loss plus proximal / 2 · ‖φ − θ‖² (equation 3). At its minimum the outer gradient is
    (I + H / proximal)⁻¹ g, with H the Hessian of the support loss and g the query gradient, both at φ (Lemma 1); the linear
    system is solved for all tasks at once by conjugate gradient on Hessian-vector products.

    Where the support loss is not convex at φ, I + H / proximal may be indefinite; ``damping`` adds to its diagonal, as in the
    released code (github.com/aravindr93/imaml_dev, 1.0 there). Conjugate gradient stops at the first direction of a curvature that
    is not positive; a task whose query gradient is such a direction contributes that gradient, to the first order. (The released
    code does not look at the curvature.)

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the inner steps, on the mean support loss.
        proximal: strength λ of the pull towards the slow weights.
        cg_steps: steps of conjugate gradient.
        damping: added to the diagonal of the system.
        inner_steps, test_steps: inner steps in training, and in validation and test.
        common: see `GradientLearner`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        proximal: float = 1.0,
        cg_steps: int = 5,
        damping: float = 1.0,
        *,
        inner_steps: int = 16,
        test_steps: int = 16,
        **common: Any,
    ) -> None:
        super().__init__(spec, network(one_head(spec)), inner_steps=inner_steps, test_steps=test_steps, **common)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(proximal > 0, "proximal", proximal, "a number above 0")
        require(cg_steps > 0, "cg_steps", cg_steps, "1 or more")
        require(damping >= 0, "damping", damping, "0 or more")
        self.inner_lr, self.proximal, self.cg_steps, self.damping = inner_lr, proximal, cg_steps, damping

    def rule(self) -> Rule:
        return Descent(self.inner_lr)

    def support_losses(self, step: int, weights: Weights, support: Examples, norm: Norm) -> Tensor:
        away = sum((weights[name] - start.detach()).square().flatten(1).sum(1) for name, start in self.adapting().items())
        return super().support_losses(step, weights, support, norm) + self.proximal / 2 * away

    def gradients(self, episodes: Episodes) -> tuple[Tensor, Weights]:
        with torch.no_grad():
            end = self.end(episodes.support)
        fast = {name: end.weights[name].detach().requires_grad_() for name in self.adapting()}
        weights = end.weights | fast
        state = self.with_statistics(end._replace(weights=weights))
        losses = self.spec.kind.losses(self.predict(state, episodes.query.x), episodes.query.y)
        query = torch.autograd.grad(losses.sum(), list(fast.values()))
        support = super().support_losses(self.inner_steps, weights, episodes.support, self.norm(query=False))
        slope = torch.autograd.grad(support.sum(), list(fast.values()), create_graph=True)

        def system(v: list[Tensor]) -> list[Tensor]:
            curved = torch.autograd.grad(slope, list(fast.values()), v, retain_graph=True)
            return [(1 + self.damping) * a + h / self.proximal for a, h in zip(v, curved, strict=True)]

        solved = conjugate_gradient(system, list(query), self.cg_steps)
        return losses.detach(), dict(zip(fast, solved, strict=True))


def conjugate_gradient(system: Callable[[list[Tensor]], list[Tensor]], b: list[Tensor], steps: int) -> list[Tensor]:
    """Solve ``system(x)`` = ``b`` for T symmetric systems at once by truncated conjugate gradient; the task axis comes first.

    A task stops for good when it is solved to rounding, or at the first direction d along which its system is not positive
    definite, dᵀ system(d) ≤ 0, and keeps the solution found until then. If that is the first direction, which is ``b``, the
    solution is ``b`` itself, as in truncated Newton methods (Nocedal and Wright, Numerical Optimization, Algorithm 7.1).
    """
    x = [torch.zeros_like(part) for part in b]
    residual, direction = list(b), list(b)
    rest = _dot(residual, residual)
    solved = torch.finfo(rest.dtype).eps ** 2 * rest
    going = torch.ones_like(rest, dtype=torch.bool)
    for step in range(steps):
        pushed = system(direction)
        curvature = _dot(direction, pushed)
        if step == 0:
            x = [_along(a, (curvature <= 0).to(rest.dtype), part) for a, part in zip(x, b, strict=True)]
        going = going & (curvature > 0) & (rest > solved)
        length = torch.where(going, rest / curvature.where(going, torch.ones_like(rest)), 0.0)
        x = [_along(a, length, d) for a, d in zip(x, direction, strict=True)]
        residual = [_along(r, -length, p) for r, p in zip(residual, pushed, strict=True)]
        next_rest = _dot(residual, residual)
        turn = torch.where(going, next_rest / rest.where(going, torch.ones_like(rest)), 0.0)
        direction = [_along(r, turn, d) for r, d in zip(residual, direction, strict=True)]
        rest = next_rest
    return x


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Of each task, (T,)."""
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def _along(a: Tensor, length: Tensor, b: Tensor) -> Tensor:
    return a + length.view(-1, *[1] * (b.dim() - 1)) * b
