"""Meta-LSTM, optimization as a model for few-shot learning (Ravi and Larochelle, ICLR 2017)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import GradientLearner
from metarun.algo.rules import Rule
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory, Weights


class MetaLSTM(GradientLearner):
    """Learn the optimizer that adapts the weights: an LSTM whose cell state is the learner's weights (section 3).

    Every weight is moved by θ ← f · θ − i · ∇ (equation 2), its forget gate f and input gate i computed from its own gradient, the
    task's loss and what an ordinary LSTM remembers of both; all weights share the optimizer's parameters. The initial weights
    are learned as the first cell state. As in the paper the outer gradient goes through the gates but takes inner gradients and
    losses for constants (section 3.4).

    Args:
        spec, network: the tasks, and the configured `model`.
        hidden: units of the LSTM that reads gradients and losses.
        rate: input gate at the beginning, that is the rate of the first steps.
        scale: p of the gradients' preprocessing, which splits magnitude and sign (Andrychowicz et al. 2016, appendix A).
        inner_steps, test_steps: inner steps in training, and in validation and test.
        recompute: see `UnrolledLearner`.
        common: see `GradientLearner`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        hidden: int = 20,
        rate: float = 0.01,
        scale: float = 10.0,
        *,
        inner_steps: int = 5,
        test_steps: int = 5,
        recompute: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, network(one_head(spec)), inner_steps=inner_steps, test_steps=test_steps, **common)
        self.recompute = recompute
        require(hidden > 0, "hidden", hidden, "1 or more")
        require(0 < rate < 1, "rate", rate, "a number between 0 and 1")
        require(scale > 0, "scale", scale, "a number above 0")
        self.optimizer = LearnedOptimizer(hidden, rate, scale)
        self.held = hidden * sum(w.numel() for w in self.adapting().values())  # what the LSTM remembers of each weight

    def rule(self) -> Rule:
        return self.optimizer


class LearnedOptimizer(nn.Module):
    """The gates, one set for every weight of every task: a `Rule`.

    Args:
        hidden: units of the LSTM.
        rate: input gate at the beginning.
        scale: p of `preprocess`.
    """

    def __init__(self, hidden: int, rate: float, scale: float) -> None:
        super().__init__()
        self.hidden, self.scale = hidden, scale
        self.reader = nn.LSTMCell(4, hidden)
        # From what the reader says, the weight and the gate before. They begin as plain gradient descent.
        self.input_gate, self.forget_gate = nn.Linear(hidden + 2, 1), nn.Linear(hidden + 2, 1)
        for gate, at in ((self.input_gate, rate), (self.forget_gate, 0.9999)):
            nn.init.normal_(gate.weight, std=0.01)
            nn.init.constant_(gate.bias, math.log(at / (1 - at)))

    def start(self, weights: Weights) -> Weights:
        count = sum(w.numel() for w in weights.values())
        some = next(iter(weights.values()))
        state = {name: some.new_zeros(count, self.hidden) for name in ("read", "cell")}
        return state | {"input": some.new_zeros(count), "forget": some.new_ones(count)}

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        theta = torch.cat([w.flatten() for w in weights.values()])
        gradient = torch.cat([g.flatten() for g in gradients.values()]).detach()
        loss = torch.cat([losses.repeat_interleave(w[0].numel()) for w in weights.values()])
        seen = torch.cat([preprocess(gradient, self.scale), preprocess(loss, self.scale)], 1)
        read, cell = self.reader(seen, (carried["read"], carried["cell"]))
        gates = []
        for name, gate in (("input", self.input_gate), ("forget", self.forget_gate)):
            gates.append(gate(torch.cat([read, theta.unsqueeze(1), carried[name].unsqueeze(1)], 1)).squeeze(1).sigmoid())
        into, keep = gates
        theta = keep * theta - into * gradient
        parts = theta.split([w.numel() for w in weights.values()])
        moved = {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}
        return moved, {"read": read, "cell": cell, "input": into, "forget": keep}


def preprocess(x: Tensor, scale: float) -> Tensor:
    """(n,) → (n, 2): magnitude and sign, each of the size of 1 (Andrychowicz et al. 2016, appendix A)."""
    large = x.abs() >= math.exp(-scale)
    size = torch.where(large, x.abs().clamp(min=math.exp(-scale)).log() / scale, -1.0)
    return torch.stack([size, torch.where(large, x.sign(), x * math.exp(scale))], 1)
