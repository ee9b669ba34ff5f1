"""Small tasks and small networks."""

import torch

from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION, REGRESSION
from metarun.model.conv4 import Conv4
from metarun.model.mlp import MLP
from metarun.model.resnet12 import ResNet12


def regression(tasks: int = 3, shots: int = 4, queries: int = 5, dtype: torch.dtype = torch.float64) -> Episodes:
    def draw(n: int) -> Examples:
        return Examples(torch.randn(tasks, n, 1, dtype=dtype), torch.randn(tasks, n, 1, dtype=dtype))

    return Episodes(draw(shots), draw(queries))


def images(
    tasks: int = 3, ways: int = 3, shots: int = 2, queries: int = 2, side: int = 16, dtype: torch.dtype = torch.float64
) -> Episodes:
    def draw(n: int) -> Examples:
        y = torch.arange(ways).repeat_interleave(n).expand(tasks, -1)
        return Examples(torch.rand(tasks, ways * n, 1, side, side, dtype=dtype), y, ways)

    return Episodes(draw(shots), draw(queries))


LINE = TaskSpec(REGRESSION, (1,), outputs=1, train_outputs=1, name="line")
PICTURES = TaskSpec(CLASSIFICATION, (1, 16, 16), outputs=3, train_outputs=3, name="pictures")


def mlp(outputs: int | None) -> MLP:
    return MLP((1,), outputs, widths=[7, 6])


def conv(outputs: int | None) -> Conv4:
    return Conv4((1, 16, 16), outputs, filters=4)


def strided(outputs: int | None) -> Conv4:
    return Conv4((1, 16, 16), outputs, filters=4, halve="stride", features="mean", scale=False)


def resnet(outputs: int | None) -> ResNet12:
    return ResNet12((1, 16, 16), outputs, widths=(3, 4))
