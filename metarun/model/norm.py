"""How a batch norm normalises in one forward pass, decided by the caller and not by a module's hidden state.

Few-shot results depend on whose statistics are used, so a pass says it: with the statistics of its own batch (each task by
itself), or with given ones (of the support set, or running). Nothing is written anywhere: what a pass saw is read from `seen`.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance by layer, each (channels,) shared by all tasks or (T, channels)."""

EPS = 1e-5


@dataclass
class Norm:
    """One pass's batch norms.

    Args:
        given: normalise with these; None: with each task's own batch.
        record: keep what the batches showed in `seen`: "values" without a graph (for running averages, free), "graph" to
            differentiate through them (for statistics of the support set).
    """

    given: Statistics | None = None
    record: str | None = None
    seen: Statistics = field(default_factory=dict)

    def __call__(self, layer: str, x: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
        """``x`` (n, T, C, H, W), ``weight`` and ``bias`` (C,) or (T, C) → the same shape as ``x``."""
        tasks, channels = x.shape[1:3]
        if self.given is None and self.record != "graph" and x.device.type == "cpu":
            standard, mean, var = standardise(x.permute(1, 0, 3, 4, 2).flatten(1, 3))
            if self.record:
                self.seen[layer] = mean, var
            shift = bias.unsqueeze(-2)
            out = standard + shift if weight is None else torch.addcmul(shift, standard, weight.unsqueeze(-2))
            n, _, _, height, width = x.shape
            return out.view(tasks, n, height, width, channels).permute(1, 0, 4, 2, 3)
        if self.given is None and self.record != "graph":
            # torch's own kernel over T·C channels: tasks do not mix, and it is exact at second order (a vmap over it is not).
            # Its double backward fails without a weight, so a norm without a scale is given ones (written out: the kernel
            # reads an expanded one's memory as if it were contiguous).
            full = bias.new_ones(tasks, channels) if weight is None else weight.expand(tasks, channels)
            scale, shift = full.reshape(-1), bias.expand(tasks, channels).reshape(-1)
            mean = var = None
            if self.record:
                kind = torch.promote_types(x.dtype, torch.float32)  # under autocast x may be bfloat16
                mean, var = (x.new_zeros(tasks * channels, dtype=kind) for _ in range(2))
            out = F.batch_norm(x.flatten(1, 2), mean, var, scale, shift, training=True, momentum=1.0, eps=EPS)
            if mean is not None and var is not None:
                self.seen[layer] = mean.view(tasks, channels), var.view(tasks, channels)
            return out.view_as(x)
        if self.given is None:
            axes = (0, 3, 4)
            mean, var = x.mean(axes), x.var(axes, correction=0)
            self.seen[layer] = mean, var
        else:
            mean, var = self.given[layer]
        scale = torch.rsqrt(var + EPS) if weight is None else weight * torch.rsqrt(var + EPS)
        shift = bias - mean * scale
        return x * scale[..., None, None] + shift[..., None, None]


def standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` (T, m, C) with mean 0 and variance 1 over m; what they were, (T, C) each and without a graph, the variance unbiased.

    On the CPU it takes a quarter of the time of torch's kernel over T·C channels, whose second derivative is some thirty passes
    over memory; here it is a few.
    """
    standard, _, mean, var = _Standardise.apply(x)
    return standard, mean, var


class _Standardise(torch.autograd.Function):
    """``x`` (T, m, C) → (x − mean) · rate, and rate = 1 / √(variance + ε), (T, 1, C).

    The rate is an output because the gradient depends on it; nothing but the gradient's own gradient uses it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        count = x.shape[1]
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        var = torch.linalg.vecdot(centred, centred, dim=1).unsqueeze(1) / count
        rate = torch.rsqrt(var + EPS)
        standard = centred.mul_(rate)
        ctx.save_for_backward(standard, rate)
        ctx.set_materialize_grads(False)
        mean, var = mean.squeeze(1), var.squeeze(1) * (count / max(count - 1, 1))
        ctx.mark_non_differentiable(mean, var)
        return standard, rate, mean, var

    @staticmethod
    def backward(ctx: Any, above: Tensor, above_rate: Tensor | None, *_: None) -> Tensor:
        standard, rate = ctx.saved_tensors
        if above_rate is None:
            gradient: Tensor = _StandardiseGradient.apply(above, standard, rate)
            return gradient
        return _orthogonal(above, standard, rate, above_rate * rate)[0]


class _StandardiseGradient(torch.autograd.Function):
    """rate · (what is left of ``above`` without its projections on 1 and on ``standard``), all (T, m, C)."""

    @staticmethod
    def forward(ctx: Any, above: Tensor, standard: Tensor, rate: Tensor) -> Tensor:
        gradient, along = _orthogonal(above, standard, rate)
        ctx.save_for_backward(above, standard, rate, along)
        return gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        above, standard, rate, along = ctx.saved_tensors
        to_above, v_along = _orthogonal(v, standard, rate)
        to_standard = (v * (-along * rate)).addcmul_(above, -v_along * rate)
        to_rate = torch.linalg.vecdot(to_above, above, dim=1).unsqueeze(1) / rate
        return to_above, to_standard, to_rate


def _orthogonal(v: Tensor, standard: Tensor, rate: Tensor, more: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """rate · (v − mean(v) − standard · (mean(v · standard) + more / m)), and mean(v · standard)."""
    count = v.shape[1]
    along = torch.linalg.vecdot(v, standard, dim=1).unsqueeze(1) / count
    rest = torch.addcmul(-v.mean(1, keepdim=True), standard, -(along + more / count)).add_(v)
    return rest.mul_(rate), along


class RunningStatistics(nn.Module):
    """Running mean and variance of each batch norm, in buffers.

    Args:
        channels: of each layer, by its name.
    """

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        self.channels = channels
        for i, width in enumerate(channels.values()):
            self.register_buffer(f"mean_{i}", torch.zeros(width))
            self.register_buffer(f"var_{i}", torch.ones(width))

    def values(self) -> Statistics:
        """Mean and variance by layer, (channels,) each."""
        return {layer: (self.get_buffer(f"mean_{i}"), self.get_buffer(f"var_{i}")) for i, layer in enumerate(self.channels)}

    @torch.no_grad()
    def update(self, seen: list[Statistics], momentum: float = 0.1) -> None:
        """Move them towards the mean over all tasks of ``seen``."""
        for layer, averages in self.values().items():
            for average, parts in zip(averages, zip(*(s[layer] for s in seen), strict=True), strict=True):
                average.lerp_(torch.cat(parts).mean(0).to(average.dtype), momentum)
