"""How a batch norm normalises in one forward pass, decided by the caller and not by a module's hidden state.

Few-shot results depend on whose statistics are used, so a pass says it: with the statistics of its own batch (each task by
itself), or with given ones (of the support set, or running). Nothing is written anywhere: what a pass saw is read from `seen`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
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
