"""Several processes of one run, connected by torch.distributed: gloo between processors, nccl between GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from metarun.ranks import Ranks
from metarun.rng import derive

TIMEOUT = timedelta(minutes=30)
"""A process that hangs is given up after it (one that ends is missed at once): as long as one may download or decode data."""


class Lost(RuntimeError):
    """Another process of the run has ended or hangs."""


class Processes(Ranks):
    """Several, connected. Every call but `own_draws` is one that all of them must make."""

    def average(self, tensors: list[Tensor], share: float) -> None:
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in tensors]).mul_(share)
            with _together():
                dist.all_reduce(flat)
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def agree(self, *values: int) -> tuple[int, ...]:
        # On the processor in any case: a GPU's queue of work is not waited for.
        largest = torch.tensor(values, dtype=torch.int64)
        with _together():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return tuple(largest.tolist())

    def told(self, value: Any) -> Any:
        said = [value]
        with _together():
            dist.broadcast_object_list(said)
        return said[0]

    def gather(self, value: Any) -> list[Any]:
        said: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(said, value)
        return said

    @contextmanager
    def own_draws(self, device: torch.device, *, shared: bool) -> Iterator[None]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if self.rank and not shared:
                torch.manual_seed(derive(torch.initial_seed(), "rank", self.rank))
            yield


@contextmanager
def connected(place: Ranks) -> Iterator[Processes]:
    """The processes of which ``place`` is one, for the length of the block.

    Raises:
        Lost: one of them has ended or hangs, at any call.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(place.local % torch.cuda.device_count())
    with _together():
        dist.init_process_group(backend, timeout=TIMEOUT)
    yield Processes(place.rank, place.size, place.local)
    dist.destroy_process_group()  # not after a mistake: it would wait for the others


@contextmanager
def _together() -> Iterator[None]:
    """Say in one line that another process is gone, which torch says in many ways."""
    try:
        yield
    except RuntimeError as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        message = "torchrun: another process of this run has ended or hangs; the same command goes on from the last checkpoint"
        raise Lost(f"{message} ({why})") from error
