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
"""ε, added to a variance before its square root: torch's default."""


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

    def __call__(self, layer: str, x: Tensor, weight: Tensor | None, bias: Tensor, eps: float = EPS) -> Tensor:
        """``x`` (n, T, C, H, W), ``weight`` and ``bias`` (C,) or (T, C) → the same shape as ``x``; ``eps`` is the layer's ε."""
        tasks, channels = x.shape[1:3]
        if self.given is None and self.record != "graph" and x.device.type == "cpu":
            of_tasks = x.permute(1, 0, 3, 4, 2)  # as it lies in memory, see `as_images`
            out, *seen = batch_norm(of_tasks.flatten(1, 3), weight, bias, eps)
            if self.record:
                self.seen[layer] = seen[0], seen[1]
            return out.view_as(of_tasks).permute(1, 0, 4, 2, 3)
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
            out = F.batch_norm(x.flatten(1, 2), mean, var, scale, shift, training=True, momentum=1.0, eps=eps)
            if mean is not None and var is not None:
                self.seen[layer] = mean.view(tasks, channels), var.view(tasks, channels)
            return out.view_as(x)
        if self.given is None:
            axes = (0, 3, 4)
            mean, var = x.mean(axes), x.var(axes, correction=0)
            self.seen[layer] = mean, var
        else:
            mean, var = self.given[layer]
        scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
        shift = bias - mean * scale
        return x * scale[..., None, None] + shift[..., None, None]


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` (T, m, C) normalised over m, times ``weight`` and plus ``bias``, (C,) or (T, C); and the mean and unbiased variance.

    The two are (T, C), without a graph. For the CPU: torch's kernel over T·C channels takes about three times as long there
    (measured, torch 2.13), and its second derivative is a chain of elementwise operations, each a pass over memory.
    """
    x = x.float() if x.dtype == torch.bfloat16 else x  # of what autocast gives; statistics want more digits
    tasks, _, channels = x.shape
    scale = x.new_ones(()) if weight is None else weight
    scale, shift = (v.expand(tasks, channels).unsqueeze(1) for v in (scale, bias))
    out, _, _, mean, var = _BatchNorm.apply(x, scale, shift, eps)  # type: ignore[no-untyped-call]
    return out, mean, var


class _BatchNorm(torch.autograd.Function):
    """``x`` (T, m, C) → standard · scale + shift, with standard = (x − mean) · rate and rate = 1 / √(variance + ε).

    ``scale``, ``shift`` and rate are (T, 1, C). Standard and rate are outputs because the gradient depends on them; nothing but the
    gradient's own gradient uses them as such.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, ...]:
        count = x.shape[1]
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        var = _dot(centred, centred) / count
        rate = torch.rsqrt(var + eps)
        standard = centred.mul_(rate)
        ctx.save_for_backward(standard, rate, scale)
        ctx.set_materialize_grads(False)
        mean, var = mean.squeeze(1), var.squeeze(1) * (count / max(count - 1, 1))
        ctx.mark_non_differentiable(mean, var)
        return torch.addcmul(shift, standard, scale), standard, rate, mean, var

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, to_standard: Tensor | None, to_rate: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        standard, rate, scale = ctx.saved_tensors
        g = torch.zeros_like(standard) if g is None else g
        if to_standard is None or to_rate is None:
            gradients: tuple[Tensor, ...] = _BatchNormGradient.apply(g, standard, rate, scale)  # type: ignore[no-untyped-call]
            return *gradients, None
        along, total = _dot(g, standard), g.sum(1, keepdim=True)
        g = to_standard.addcmul(g, scale)
        count = g.shape[1]
        mean, drift = g.mean(1, keepdim=True), (_dot(g, standard) + to_rate * rate) / count
        return torch.addcmul(-mean * rate, standard, -drift * rate).addcmul_(g, rate), along, total, None


class _BatchNormGradient(torch.autograd.Function):
    """``g`` (T, m, C) at the output → what it makes at x, scale and shift.

    At x it is scale · rate · Π g, where Π takes away the projections on 1 and on standard: Π g = g − mean(g) − standard · mean(g ·
    standard). Π is symmetric, so the gradient of this gradient along ``v`` is scale · rate · Π v at ``g``.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, standard: Tensor, rate: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        along, total = _dot(g, standard), g.sum(1, keepdim=True)
        ctx.save_for_backward(g, standard, rate, scale, along, total)
        by = rate * scale
        each = by / g.shape[1]
        return torch.addcmul(-total * each, standard, -along * each).addcmul_(g, by), along, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, v_along: Tensor, v_total: Tensor) -> tuple[Tensor, ...]:
        g, standard, rate, scale, along, total = ctx.saved_tensors
        count, by = g.shape[1], rate * scale
        v_mean, v_drift = v.mean(1, keepdim=True), _dot(v, standard) / count
        inner = _dot(v, g) - v_mean * total - v_drift * along  # Σ v · Π g
        on_standard = v_along - by * v_drift
        to_g = torch.addcmul(v_total - by * v_mean, standard, on_standard).addcmul_(v, by)
        to_standard = (v * (-by * along / count)).addcmul_(g, on_standard)
        return to_g, to_standard, inner * scale, inner * rate


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a · b over m, (T, 1, C)."""
    product: Tensor = torch.linalg.vecdot(a, b, dim=1)
    return product.unsqueeze(1)


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
