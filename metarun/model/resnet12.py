"""The residual network of the few-shot literature, for one set of weights or one a task."""

from torch import Tensor, nn
from torch.nn import functional as F

from metarun.config import require
from metarun.model.layers import as_images, convolve, linear, max_pool, modulate
from metarun.model.network import Network, Weights
from metarun.model.norm import EPS, Norm


class ResNet12(Network):
    """Four residual blocks, each of three 3×3 convolutions with batch norms, then the mean over positions and a linear head.

    After Mishra et al. (SNAIL, ICLR 2018) in the form of Lee et al. (MetaOptNet, CVPR 2019): a 1×1 convolution with batch norm on
    the shortcut, leaky ReLU of slope 0.1, 2×2 max-pool at the end of a block. Their DropBlock is left out.

    Args:
        input_shape: (channels, height, width) of an image.
        outputs: outputs of the head; None for an embedding.
        widths: filters of each block: [64, 160, 320, 640] in MetaOptNet, [64, 128, 256, 512] elsewhere.
        eps: ε of the batch norms.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        outputs: int | None,
        widths: tuple[int, ...] = (64, 160, 320, 640),
        eps: float = EPS,
    ) -> None:
        super().__init__()
        require(bool(widths) and all(w > 0 for w in widths), "widths", list(widths), "numbers above 0")
        require(eps > 0, "eps", eps, "a number above 0")
        require(len(input_shape) == 3, "model", "resnet12", f"images (channels, height, width); the data gives {input_shape}")
        smallest = 2 ** len(widths)
        enough = min(input_shape[1:]) >= smallest
        require(enough, "model", "resnet12", f"images of {smallest}×{smallest} pixels at least; the data gives {input_shape}")
        convs, norms, before = {}, {}, input_shape[0]
        for block, width in enumerate(widths):
            for layer, (size, inputs) in enumerate(((3, before), (3, width), (3, width), (1, before))):
                conv = nn.Conv2d(inputs, width, size, padding=size // 2, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="leaky_relu")
                convs[f"{block}_{layer}"], norms[f"{block}_{layer}"] = conv, nn.BatchNorm2d(width, track_running_stats=False)
            before = width
        self.convs, self.norms, self.blocks = nn.ModuleDict(convs), nn.ModuleDict(norms), len(widths)
        self.eps = eps
        self.widest = widths[0] * input_shape[1] * input_shape[2]
        self.head = None if outputs is None else nn.Linear(before, outputs)
        self.head_names = frozenset() if outputs is None else frozenset({"head.weight", "head.bias"})
        self.film = {str(block): width for block, width in enumerate(widths)}
        self.add_running_statistics({name: layer.num_features for name, layer in norms.items()})

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        norm = norm or Norm()

        def layer(name: str, x: Tensor) -> Tensor:
            out = convolve(x, weights[f"convs.{name}.weight"])
            return norm(name, out, weights[f"norms.{name}.weight"], weights[f"norms.{name}.bias"], self.eps)

        x = as_images(x)
        for block in range(self.blocks):
            out = x
            for i in range(3):
                out = layer(f"{block}_{i}", out)
                if i < 2:
                    out = F.leaky_relu(out, 0.1)
            x = F.leaky_relu(modulate(max_pool(out + layer(f"{block}_3", x)), weights, str(block)), 0.1)
        x = x.mean((3, 4)).transpose(0, 1)
        return x if self.head is None else linear(x, weights["head.weight"], weights["head.bias"])
