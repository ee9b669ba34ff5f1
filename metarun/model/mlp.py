"""A multilayer perceptron with ReLU, for one set of weights or one a task."""

from itertools import pairwise
from math import prod
from typing import Literal

from torch import Tensor, nn

from metarun.config import require
from metarun.model.layers import linear, modulate
from metarun.model.network import Network, Weights
from metarun.model.norm import Norm


class MLP(Network):
    """``widths`` hidden layers with ReLU, then a linear head; inputs of any shape are flattened.

    Args:
        input_shape: shape of one input.
        outputs: outputs of the head; None for an embedding, which ends in the last hidden layer, or without any is the inputs
            themselves.
        widths: width of each hidden layer.
        init: "torch" (the default of `nn.Linear`) or "truncated_normal", cut at two standard deviations with zero biases, as
            in the released code of MAML.
        std: standard deviation of "truncated_normal" before the cut.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int | None,
        widths: list[int],
        init: Literal["torch", "truncated_normal"] = "torch",
        std: float = 0.01,
    ) -> None:
        super().__init__()
        require(all(w > 0 for w in widths), "widths", widths, "numbers above 0")
        require(std > 0, "std", std, "a number above 0")
        sizes = [prod(input_shape), *widths, *([] if outputs is None else [outputs])]
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        if init == "truncated_normal":
            for layer in layers:
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(layer.bias)
        self.layers, self.hidden = nn.ModuleList(layers), len(widths)
        self.head_names = frozenset() if outputs is None else frozenset({f"layers.{len(widths)}.{of}" for of in ("weight", "bias")})
        self.film = {str(i): width for i, width in enumerate(widths)}
        self.add_running_statistics({})

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None, hidden: list[Tensor] | None = None) -> Tensor:
        """As in `Network`; ``hidden`` is filled with the outputs of the hidden layers, (T, n, width) each."""
        x = x.flatten(2)
        for i in range(len(self.layers)):
            x = linear(x, weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"])
            x = modulate(x, weights, str(i))
            if i < self.hidden:
                x = x.relu()
                if hidden is not None:
                    hidden.append(x)
        return x
