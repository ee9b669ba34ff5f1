"""The four-block convolutional network of the few-shot literature, for one set of weights or one a task."""

from typing import Literal

from torch import Tensor, nn

from metarun.config import require
from metarun.model.layers import as_images, convolve, linear, max_pool, modulate
from metarun.model.network import Network, Weights
from metarun.model.norm import Norm


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
        init: of the convolutions: "torch" or "xavier" (uniform).
        head_std: standard deviation of the head's normal initialisation with zero biases (1 in MAML's code on Omniglot); null for
            torch's own.
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
        init: Literal["torch", "xavier"] = "torch",
        head_std: float | None = None,
    ) -> None:
        super().__init__()
        require(filters > 0, "filters", filters, "a number above 0")
        require(len(input_shape) == 3, "model", "conv4", f"images (channels, height, width); the data gives {input_shape}")
        require(0 <= halvings <= 4, "halvings", halvings, "0 to 4, of the four blocks")
        require(outputs is None or features != "maps", "features", features, "flatten or mean, for a network with a head")
        self.halve, self.halvings, self.features = halve, halvings, features
        channels, height, width = input_shape
        self.widest = filters * (height * width if halve == "pool" or not halvings else (height + 1) // 2 * ((width + 1) // 2))
        # No bias: the batch norm that follows would take it out again.
        convs = [nn.Conv2d(channels if i == 0 else filters, filters, 3, padding=1, bias=False) for i in range(4)]
        norms = [nn.BatchNorm2d(filters, track_running_stats=False) for _ in range(4)]
        for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            if not scale:
                norm.register_parameter("weight", None)
            if init == "xavier":
                nn.init.xavier_uniform_(conv.weight)
            if i < halvings:
                height, width = ((s + 1) // 2 if halve == "stride" else s // 2 for s in (height, width))
        require(min(height, width) > 0, "model", "conv4", f"images of 16×16 pixels at least; the data gives {input_shape}")
        self.convs, self.norms, self.head = nn.ModuleList(convs), nn.ModuleList(norms), None
        if outputs is not None:
            self.head = nn.Linear(filters * (height * width if features == "flatten" else 1), outputs)
            if head_std is not None:
                nn.init.normal_(self.head.weight, std=head_std)
                nn.init.zeros_(self.head.bias)
        self.film = {str(i): filters for i in range(4)}
        self.add_running_statistics(self.film)

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        norm = norm or Norm()
        x = as_images(x)
        for i in range(4):
            x = convolve(x, weights[f"convs.{i}.weight"], stride=2 if self.halve == "stride" and i < self.halvings else 1)
            x = norm(str(i), x, weights.get(f"norms.{i}.weight"), weights[f"norms.{i}.bias"])
            if self.halve == "pool" and i < self.halvings:
                x = max_pool(x)  # before the ReLU: the same, on a quarter of the values
            x = modulate(x, weights, str(i)).relu()
        x = x.transpose(0, 1)
        if self.features != "maps":
            x = x.mean((3, 4)) if self.features == "mean" else x.flatten(2)
        return x if self.head is None else linear(x, weights["head.weight"], weights["head.bias"])
