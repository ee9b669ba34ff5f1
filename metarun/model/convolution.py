"""A convolution with a set of weights for each task, on the CPU, differentiable twice at full speed.

Grouped convolution, which does the same, runs at a fraction of the processor's rate there, and torch takes its second
derivative group by group. Three facts make it fast:

- y = conv(x, w) is linear in x and in w, so with g at the output everything that backpropagation asks for, to any order, is a
  partial derivative of one form that is linear in each of its three arguments, Σ g · conv(x, w): y is that by g, the input's
  gradient that by x, the weight's that by w. Three kernels are enough for all orders.
- With channels last, a row of an image's patches is a few long runs of memory, and a kernel is one batched matrix product of
  patches and weights, at the rate of a large product. Patches are made anew for each and not kept.
- Where a task has many positions, torch's own convolution has enough to do with one task, and needs no patches.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

CACHED = 2**17
"""The most numbers in a task's patches that are multiplied all tasks at once: half a megabyte of float32."""


class Shape(NamedTuple):
    """Of a convolution with padding k // 2 of T tasks."""

    x: tuple[int, ...]
    """(T, n, H, W, C)"""
    w: tuple[int, ...]
    """(T, O, C, k, k)"""
    stride: int

    @property
    def y(self) -> tuple[int, ...]:
        """(T, n, H', W', O)."""
        height, width = ((side - 1) // self.stride + 1 for side in self.x[2:4])
        return (*self.x[:2], height, width, self.w[1])

    @property
    def padding(self) -> int:
        return self.w[-1] // 2

    @property
    def rows(self) -> int:
        """Of a task's patches."""
        _, n, height, width, _ = self.y
        return n * height * width

    @property
    def by_task(self) -> bool:
        """Whether torch's convolution task by task is faster than one product of all tasks' patches."""
        return self.rows * math.prod(self.w[2:]) > CACHED


def convolve_tasks(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """``x`` (T, n, H, W, C) by each task's ``weight`` (T, O, C, k, k) with odd k → (T, n, H', W', O); padding k // 2."""
    if torch.is_autocast_enabled("cpu"):  # here, as the kernels are given no mixture of types
        x, weight = (v.to(torch.get_autocast_dtype("cpu")) for v in (x, weight))
    return _partial(2, [x, weight, None], Shape(tuple(x.shape), tuple(weight.shape), stride))


def _partial(wanted: int, arguments: list[Tensor | None], shape: Shape) -> Tensor:
    found: Tensor = _Convolution.apply(wanted, *arguments, shape)  # type: ignore[no-untyped-call]
    return found


class _Convolution(torch.autograd.Function):
    """∂/∂(the argument numbered ``wanted``) of Σ y · conv(x, w), given the two others; it is linear in both of them."""

    @staticmethod
    def forward(ctx: Any, wanted: int, x: Tensor | None, w: Tensor | None, y: Tensor | None, shape: Shape) -> Tensor:
        ctx.wanted, ctx.shape = wanted, shape
        ctx.save_for_backward(x, w, y)
        first, second = (given for given in (x, w, y) if given is not None)
        return (_to_input, _to_weight, _to_output)[wanted](first, second, shape)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        arguments: list[Tensor | None] = list(ctx.saved_tensors)
        arguments[ctx.wanted] = above
        gradients: list[Tensor | None] = [None] * 3
        for i in range(3):
            if ctx.needs_input_grad[1 + i]:
                gradients[i] = _partial(i, [*arguments[:i], None, *arguments[i + 1 :]], ctx.shape)
        return None, *gradients, None


def _to_output(x: Tensor, w: Tensor, shape: Shape) -> Tensor:
    """``y`` (T, n, H', W', O)."""

    def one(x: Tensor, w: Tensor) -> Tensor:
        y: Tensor = F.conv2d(_channels_first(x), w, None, shape.stride, shape.padding).movedim(1, -1)
        return y

    if _shared(w):
        return one(x.flatten(0, 1), w[0]).reshape(shape.y)
    if shape.by_task:
        return torch.stack([one(*of_task) for of_task in zip(x, w, strict=True)])
    return torch.bmm(_patches(x, shape), _rows(w).mT).view(shape.y)


def _to_input(w: Tensor, y: Tensor, shape: Shape) -> Tensor:
    """``x`` (T, n, H, W, C)."""
    tasks, n, height, width, channels = shape.x

    def one(w: Tensor, y: Tensor) -> Tensor:
        size = (len(y), channels, height, width)
        x: Tensor = conv2d_input(size, w, _channels_first(y), shape.stride, shape.padding).movedim(1, -1)
        return x

    if _shared(w):
        return one(w[0], y.flatten(0, 1)).reshape(shape.x)
    if shape.by_task:
        return torch.stack([one(*of_task) for of_task in zip(w, y, strict=True)])
    # Every patch goes back to where it came from, one offset in the kernel after another.
    size, stride, padding = shape.w[-1], shape.stride, shape.padding
    patches = torch.bmm(y.reshape(tasks, shape.rows, -1), _rows(w)).view(*shape.y[:4], size, size, channels)
    x = y.new_zeros(tasks, n, height + 2 * padding, width + 2 * padding, channels)
    down, across = ((side - 1) * stride + 1 for side in shape.y[2:4])
    for i in range(size):
        for j in range(size):
            x[:, :, i : i + down : stride, j : j + across : stride].add_(patches[:, :, :, :, i, j])
    return x[:, :, padding : padding + height, padding : padding + width]


def _to_weight(x: Tensor, y: Tensor, shape: Shape) -> Tensor:
    """``w`` (T, O, C, k, k)."""
    tasks, out, channels, size, _ = shape.w

    def one(x: Tensor, y: Tensor) -> Tensor:
        w: Tensor = conv2d_weight(_channels_first(x), shape.w[1:], _channels_first(y), shape.stride, shape.padding).movedim(1, -1)
        return w

    if shape.by_task:
        product = torch.stack([one(*of_task) for of_task in zip(x, y, strict=True)])
    else:
        patches, y = _patches(x, shape), y.reshape(tasks, shape.rows, -1)
        # With fewer numbers in a patch than filters (a grey image) the other order takes a fifth of the time.
        narrow = patches.shape[-1] < out
        product = torch.bmm(patches.mT, y).mT if narrow else torch.bmm(y.mT, patches)
        product = product.reshape(tasks, out, size, size, channels)
    return product.movedim(-1, 2)


def _patches(x: Tensor, shape: Shape) -> Tensor:
    """``x`` (T, n, H, W, C) → (T, n · H' · W', k · k · C)."""
    size, stride, padding = shape.w[-1], shape.stride, shape.padding
    x = F.pad(x, (0, 0, padding, padding, padding, padding))
    down, across, right = x.stride()[2:]
    strides = (*x.stride()[:2], stride * down, stride * across, down, across, right)
    return x.as_strided((*shape.y[:4], size, size, shape.x[-1]), strides).reshape(shape.x[0], shape.rows, -1)


def _rows(w: Tensor) -> Tensor:
    """(T, O, C, k, k) → (T, O, k · k · C): a view of weights that lie with channels last, as `_to_weight` makes them."""
    return w.movedim(2, -1).flatten(2)


def _channels_first(x: Tensor) -> Tensor:
    """(n, H, W, C) → (n, C, H, W), channels last in memory."""
    return x.contiguous().movedim(-1, 1)


def _shared(w: Tensor) -> bool:
    """Whether all tasks still have the same weights, as before the first inner step."""
    return w.stride(0) == 0 or len(w) == 1
