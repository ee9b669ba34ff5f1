"""Rules of the inner loop: how a step moves the weights of T tasks."""

from typing import Protocol

import torch
from torch import Tensor, nn

from metarun.model.network import Weights


class Rule(Protocol):
    """How an inner step moves weights. What it carries from step to step is tensors by name, the same names at every step."""

    def start(self, weights: Weights) -> Weights:
        """What is carried into the first step from ``weights``, each with a leading task axis."""
        ...

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        """Weights after step ``step`` (0, 1, …) and what is carried on; ``losses`` (T,) are those that were differentiated."""
        ...


class Rate(Protocol):
    """The inner learning rate of a weight: a number, or a tensor that broadcasts to the weight without its task axis."""

    def __call__(self, step: int, name: str) -> Tensor | float: ...


class Descent:
    """Gradient descent, at one rate or at a rate for each weight and step."""

    def __init__(self, rate: Rate | float) -> None:
        self.rate: Rate = rate if callable(rate) else lambda step, name: rate

    def start(self, weights: Weights) -> Weights:
        return {}

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        return {name: self.moved(w, gradients[name], self.rate(step, name)) for name, w in weights.items()}, carried

    @staticmethod
    def moved(w: Tensor, gradient: Tensor, rate: Tensor | float) -> Tensor:
        # A number goes into the sum: one pass over the weights of all tasks instead of two, and again in its gradient.
        return w - rate * gradient if isinstance(rate, Tensor) else w.add(gradient, alpha=-rate)


class Adam:
    """Adam (Kingma and Ba 2015), its moments those of each task.

    Args:
        rate: of learning.
        beta1, beta2: decay of the first and the second moment.
        seconds: second moments to begin with, of the weights' own shapes, and the number of steps that made them; None: none.
    """

    def __init__(
        self, rate: float, beta1: float = 0.9, beta2: float = 0.999, seconds: tuple[Weights, Tensor] | None = None
    ) -> None:
        self.rate, self.beta1, self.beta2, self.seconds = rate, beta1, beta2, seconds

    def start(self, weights: Weights) -> Weights:
        first = {f"first.{name}": torch.zeros_like(w) for name, w in weights.items()} if self.beta1 else {}
        if self.seconds is None:
            return first | {f"second.{name}": torch.zeros_like(w) for name, w in weights.items()}
        return first | {f"second.{name}": self.seconds[0][name].expand_as(w) for name, w in weights.items()}

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        made = step + 1 if self.seconds is None else self.seconds[1] + (step + 1)
        kept, moved = {}, {}
        for name, w in weights.items():
            gradient = gradients[name]
            second = self.beta2 * carried[f"second.{name}"] + (1 - self.beta2) * gradient.square()
            kept[f"second.{name}"] = second
            direction = gradient
            if self.beta1:
                first = self.beta1 * carried[f"first.{name}"] + (1 - self.beta1) * gradient
                kept[f"first.{name}"] = first
                direction = first / (1 - self.beta1 ** (step + 1))
            moved[name] = w - self.rate * direction / ((second / (1 - self.beta2**made)).sqrt() + 1e-8)
        return moved, kept


class LearnedRates(nn.Module):
    """Rates that the outer loop learns, `rates(step, name)`.

    Args:
        weights: the weights that adapt, of their own shapes.
        initial: of every rate, or the bounds of a uniform distribution.
        each: one rate a "weight" (Meta-SGD), or one a "tensor" of weights, which is what others call a layer (MAML++).
        steps: as many sets of rates, a further step taking the last; None: one set for all steps.
    """

    def __init__(self, weights: Weights, initial: float | tuple[float, float], each: str, steps: int | None = None) -> None:
        super().__init__()
        self.index = {name: i for i, name in enumerate(weights)}
        self.steps = steps
        low, high = (initial, initial) if isinstance(initial, float | int) else initial
        shapes = [w.shape if each == "weight" else w.shape[:0] for w in weights.values()]
        self.rates = nn.ParameterList(nn.Parameter(torch.empty(steps or 1, *shape).uniform_(low, high)) for shape in shapes)

    def forward(self, step: int, name: str) -> Tensor:
        rates: Tensor = self.rates[self.index[name]]
        return rates[min(step, self.steps - 1) if self.steps else 0]
