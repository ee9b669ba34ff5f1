"""Layers batched over tasks by hand. Images are kept as (n, T, C, H, W), so that none of them has to move memory.

A convolution with shared weights sees n·T images, one with a set of weights a task sees T groups of channels, and a batch norm
(`norm.py`) T·C channels: each is a view of the same memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """``x`` (n, T, C, H, W) by ``weight`` (O, C, k, k), or (T, O, C, k, k) → (n, T, O, H', W'); padding k // 2, no bias."""
    n, tasks = x.shape[:2]
    padding = weight.shape[-1] // 2
    if weight.dim() == 4:
        if tasks == 1 and x.device.type == "cpu":  # oneDNN takes two thirds of the time this way (measured, torch 2.13)
            weight = weight.contiguous(memory_format=torch.channels_last)
        out = F.conv2d(x.flatten(0, 1), weight, None, stride, padding)
    else:
        out = F.conv2d(x.flatten(1, 2), weight.flatten(0, 1), None, stride, padding, groups=tasks)
    return _with_tasks(out, n, tasks)


def max_pool(x: Tensor) -> Tensor:
    """(n, T, C, H, W) → (n, T, C, H // 2, W // 2)."""
    return _with_tasks(F.max_pool2d(x.flatten(0, 1), 2), *x.shape[:2])


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x`` (T, n, d) by ``weight`` (o, d) and ``bias`` (o,), or those of each task (T, o, d) and (T, o) → (T, n, o)."""
    return F.linear(x, weight, bias) if weight.dim() == 2 else torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def modulate(x: Tensor, weights: Mapping[str, Tensor], layer: str) -> Tensor:
    """``x`` (n, T, C, H, W) or (T, n, C) scaled and shifted by what ``weights`` hold for the layer, (T, C); as it is if nothing."""
    for part in ("scale", "shift"):
        by = weights.get(f"film.{layer}.{part}")
        if by is not None:
            by = by[..., None, None] if x.dim() == 5 else by.unsqueeze(1)
            x = x * by if part == "scale" else x + by
    return x


def _with_tasks(x: Tensor, n: int, tasks: int) -> Tensor:
    """(n · T, C, H, W) or (n, T · C, H, W) → (n, T, C, H, W)."""
    return x.view(n, tasks, -1, *x.shape[2:])
