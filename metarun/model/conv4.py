"""The four-block convolutional network of the few-shot literature, for one set of weights or one a task."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.config import require
from metarun.model.layers import as_images, convolve, linear, max_pool, modulate
from metarun.model.network import Network, Weights
from metarun.model.norm import EPS, Norm

Init = Literal["torch", "xavier", "kaiming"]
"""torch's own; or uniform, after Glorot and Bengio (2010) or He et al. (2015)."""


class Conv4(Network):
    """Four blocks of 3×3 convolution, batch norm, ReLU and halving (Vinyals et al. 2016), then a linear head.

    Args:
        input_shape: (channels, height, width) of an image.
        outputs: outputs of the head; None for an embedding of the flattened (or averaged) features.
        filters: filters of each block.
        halve: "pool" (2×2 max-pool after the ReLU) or "stride" (the convolution's stride 2, as MAML on Omniglot).
        halvings: blocks that halve, the first ones (2 in relation networks).
        features: "flatten", "mean" over the positions that are left, or "maps" as they are, (filters, height, width), which no
            head can follow.
        scale: whether batch norms learn a scale beside their shift (MAML's code has a shift alone).
        eps: ε of the batch norms: 1e-5 in torch, 1e-3 in TensorFlow's layers.
        slope: of the leaky ReLU for negative inputs; 0: a ReLU.
        standardise: means and standard deviations of the input's channels: each channel of an image has its mean subtracted and
            is divided by its deviation before the first convolution. ([1], [-1]) inverts grey images. None: images as they are.
        init: of the convolutions: "torch"; or uniform, "xavier" or "kaiming" (for a ReLU).
        gain: factor of "xavier" weights.
        head_init: of the head: "torch"; or uniform, "xavier" with the same ``gain``, or "kaiming" (for a linear layer).
        head_bias: the biases of a head whose weights are not torch's begin uniform between 0 and this.
        head_std: standard deviation of the head's normal initialisation with zero biases (1 in MAML's code on Omniglot); null: as
            ``head_init`` says.

    Raises:
        RangeError: images of another shape or smaller than 16×16 pixels, or a number out of range.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int | None,
        filters: int = 64,
        halve: Literal["pool", "stride"] = "pool",
        halvings: int = 4,
        features: Literal["flatten", "mean", "maps"] = "flatten",
        scale: bool = True,
        eps: float = EPS,
        slope: float = 0.0,
        standardise: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        init: Init = "torch",
        gain: float = 1.0,
        head_init: Init = "torch",
        head_bias: float = 0.0,
        head_std: float | None = None,
    ) -> None:
        super().__init__()
        require(filters > 0, "filters", filters, "a number above 0")
        require(len(input_shape) == 3, "model", "conv4", f"images (channels, height, width); the data gives {input_shape}")
        require(0 <= halvings <= 4, "halvings", halvings, "0 to 4, of the four blocks")
        require(outputs is None or features != "maps", "features", features, "flatten or mean, for a network with a head")
        require(eps > 0, "eps", eps, "a number above 0")
        require(0 <= slope < 1, "slope", slope, "0 to below 1")  # where it keeps the order, pooling may come first
        require(gain > 0, "gain", gain, "a number above 0")
        require(gain == 1 or "xavier" in (init, head_init), "gain", gain, "1, where no weights begin as xavier")
        require(head_bias >= 0, "head_bias", head_bias, "0 or more")
        require(head_std is None or head_init == "torch", "head_init", head_init, "torch where model.head_std is a number")
        require(head_bias == 0 or head_init != "torch", "head_bias", head_bias, "0 where model.head_init=torch")
        channels, height, width = input_shape
        if standardise is not None:
            sizes, nonzero = tuple(len(part) for part in standardise), all(standardise[1])
            expected = f"{channels} means and {channels} deviations other than 0"
            require(sizes == (channels, channels) and nonzero, "standardise", [list(part) for part in standardise], expected)
        self.halve, self.halvings, self.features = halve, halvings, features
        self.eps, self.slope, self.standardise = eps, slope, standardise
        self.widest = filters * (height * width if halve == "pool" or not halvings else (height + 1) // 2 * ((width + 1) // 2))
        # No bias: the batch norm that follows would take it out again.
        convs = [nn.Conv2d(channels if i == 0 else filters, filters, 3, padding=1, bias=False) for i in range(4)]
        norms = [nn.BatchNorm2d(filters, track_running_stats=False) for _ in range(4)]
        for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            if not scale:
                norm.register_parameter("weight", None)
            initialise(conv.weight, init, gain, "relu")
            if i < halvings:
                height, width = ((s + 1) // 2 if halve == "stride" else s // 2 for s in (height, width))
        require(min(height, width) > 0, "model", "conv4", f"images of 16×16 pixels at least; the data gives {input_shape}")
        self.convs, self.norms, self.head = nn.ModuleList(convs), nn.ModuleList(norms), None
        if outputs is not None:
            self.head_names = frozenset({"head.weight", "head.bias"})
            self.head = nn.Linear(filters * (height * width if features == "flatten" else 1), outputs)
            if head_std is not None:
                nn.init.normal_(self.head.weight, std=head_std)
                nn.init.zeros_(self.head.bias)
            elif head_init != "torch":
                initialise(self.head.weight, head_init, gain, "linear")
                nn.init.uniform_(self.head.bias, 0, head_bias)
        self.film = {str(i): filters for i in range(4)}
        self.add_running_statistics(self.film)

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        norm = norm or Norm()
        if self.standardise is not None:  # channel by channel with plain numbers, which no device has to be sent
            x = torch.stack([(c - mean) / std for c, mean, std in zip(x.unbind(2), *self.standardise, strict=True)], 2)
        x = as_images(x)
        for i in range(4):
            x = convolve(x, weights[f"convs.{i}.weight"], stride=2 if self.halve == "stride" and i < self.halvings else 1)
            x = norm(str(i), x, weights.get(f"norms.{i}.weight"), weights[f"norms.{i}.bias"], self.eps)
            if self.halve == "pool" and i < self.halvings:
                x = max_pool(x)  # before the ReLU: the same, on a quarter of the values
            x = modulate(x, weights, str(i))
            x = F.leaky_relu(x, self.slope) if self.slope else x.relu()
        x = x.transpose(0, 1)
        if self.features != "maps":
            x = x.mean((3, 4)) if self.features == "mean" else x.flatten(2)
        return x if self.head is None else linear(x, weights["head.weight"], weights["head.bias"])


def initialise(weight: Tensor, init: Init, gain: float, nonlinearity: Literal["relu", "linear"]) -> None:
    """Draw a layer's initial weights anew, unless they are to be torch's own; ``nonlinearity`` is what follows the layer."""
    if init == "xavier":
        nn.init.xavier_uniform_(weight, gain)
    elif init == "kaiming":
        nn.init.kaiming_uniform_(weight, nonlinearity=nonlinearity)
