"""Several processes of one run, connected by torch.distributed: gloo between CPUs, nccl between GPUs."""

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
"""For a hung process (a dead one is noticed at once); long enough for one rank to download and decode data."""


class Lost(RuntimeError):
    """Another process of the run has ended or hangs."""


class Processes(Ranks):
    """Several connected processes. All of them must make every call but `independent_draws`."""

    def all_reduce_mean(self, tensors: list[Tensor], share: float) -> None:
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in tensors]).mul_(share)
            with _lost_in_one_line():
                dist.all_reduce(flat)
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        # On the CPU in any case, so that nothing waits for a GPU's queue of work.
        largest = torch.tensor(values, dtype=torch.int64)
        with _lost_in_one_line():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return tuple(largest.tolist())

    def broadcast(self, value: Any) -> Any:
        values = [value]
        with _lost_in_one_line():
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with _lost_in_one_line():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def independent_draws(self, device: torch.device, *, shared: bool) -> Iterator[None]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if self.rank and not shared:
                torch.manual_seed(derive(torch.initial_seed(), "rank", self.rank))
            yield


@contextmanager
def connected(place: Ranks) -> Iterator[Processes]:
    """Connects ``place`` with the other processes of its run during the block.

    Raises:
        Lost: one of them has ended or hangs, at any call.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(place.local % torch.cuda.device_count())
    with _lost_in_one_line():
        dist.init_process_group(backend, timeout=TIMEOUT)
    yield Processes(place.rank, place.size, place.local)
    dist.destroy_process_group()  # not after an exception, where it would wait for the others


@contextmanager
def _lost_in_one_line() -> Iterator[None]:
    """Raises `Lost` for the many errors by which torch reports that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        message = "torchrun: another process of this run has ended or hangs; the same command goes on from the last checkpoint"
        raise Lost(f"{message} ({why})") from error
