"""Layers batched over tasks by hand. Images go through them as (n, T, C, H, W), so that none of them has to move memory.

On the GPU a convolution with shared weights sees n·T images, one with a set of weights a task sees T groups of channels, and a
batch norm (`norm.py`) T·C channels: each is a view of the same memory. On the CPU the memory is that of (T, n, H, W, C), where
a convolution is a product of matrices for each task (`convolution.py`).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.model.context import Call, record
from metarun.model.convolution import convolve_tasks


def as_images(x: Tensor) -> Tensor:
    """``x`` (T, n, C, H, W) → (n, T, C, H, W), laid out as the device convolves best.

    On the CPU tasks lie outside and channels innermost, so that a task is a matrix of positions by channels; elsewhere the
    memory is as the shape says.
    """
    if x.device.type == "cpu":
        return x.movedim(2, -1).contiguous().movedim(-1, 2).transpose(0, 1)
    return x.transpose(0, 1).contiguous()


def per_task(weight: Tensor, tasks: int) -> Tensor:
    """``weight`` for each of ``tasks``, (T, …), without a copy for each.

    On the CPU a convolution's is laid out with channels last, as `convolve` makes gradients: what an inner step makes of both is
    then again, and no step has to turn the weights of all tasks around.
    """
    if weight.dim() == 4 and weight.device.type == "cpu":
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight.expand(tasks, *weight.shape)


def convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """``x`` (n, T, C, H, W) by ``weight`` (O, C, k, k), or (T, O, C, k, k) → (n, T, O, H', W'); padding k // 2, no bias."""
    padding = weight.shape[-1] // 2
    if weight.dim() == 4:
        laid = weight.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else weight
        out = _over_images(lambda x: F.conv2d(x, laid, None, stride, padding), x)
        record(Call(x, weight, None, stride, out))
        return out
    if x.device.type == "cpu":
        return convolve_tasks(x.permute(1, 0, 3, 4, 2), weight, stride).permute(1, 0, 4, 2, 3)
    n, tasks = x.shape[:2]
    out = F.conv2d(x.flatten(1, 2), weight.flatten(0, 1), None, stride, padding, groups=tasks)
    return out.view(n, tasks, -1, *out.shape[2:])


def max_pool(x: Tensor) -> Tensor:
    """(n, T, C, H, W) → (n, T, C, H // 2, W // 2)."""
    return _over_images(lambda x: F.max_pool2d(x, 2), x)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x`` (T, n, d) by ``weight`` (o, d) and ``bias`` (o,), or those of each task (T, o, d) and (T, o) → (T, n, o)."""
    if weight.dim() == 3:
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
    out = F.linear(x, weight, bias)
    record(Call(x, weight, bias, 1, out))
    return out


def modulate(x: Tensor, weights: Mapping[str, Tensor], layer: str) -> Tensor:
    """``x`` (n, T, C, H, W) or (T, n, C) scaled and shifted by what ``weights`` hold for the layer; as it is if they hold nothing.

    They hold (T, C), or for vectors (T, n, C).
    """
    for part in ("scale", "shift"):
        by = weights.get(f"film.{layer}.{part}")
        if by is not None:
            if by.dim() == 2:
                by = by[..., None, None] if x.dim() == 5 else by.unsqueeze(1)
            x = x * by if part == "scale" else x + by
    return x


def _over_images(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``layer`` (i, C, H, W) → (i, O, H', W') on the images of ``x`` (n, T, C, H, W), in the order in which they lie in memory."""
    tasks_outside = x.device.type == "cpu"
    x = x.transpose(0, 1) if tasks_outside else x
    out = layer(x.flatten(0, 1))
    out = out.view(*x.shape[:2], *out.shape[1:])
    return out.transpose(0, 1) if tasks_outside else out
