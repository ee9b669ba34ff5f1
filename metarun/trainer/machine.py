"""Device, threads and memory allocator of the machine a run is on."""

import ctypes
import os
import sys

import torch

from metarun.config import RangeError, require
from metarun.ranks import ALONE, Ranks

MOST_THREADS = 1024

ONE_THREAD_BELOW = 10_000_000
"""Operations of the network's pass over the tasks of an update below which a second thread gains too little (docs/results.md)."""


def choose_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device called ``name``; `auto` is a GPU if there is one. Each of several processes gets its own GPU.

    Raises:
        RangeError: this machine has no such device.
    """
    if ranks.size > 1:
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        require(name in ("cpu", "cuda"), "trainer.device", name, "auto, cpu or cuda: torchrun's processes have a GPU each")
        if name == "cuda":
            here = torch.cuda.device_count()
            require(ranks.local < here, "trainer.device", name, f"at most {here} processes here, a GPU for each")
            return torch.device("cuda", ranks.local)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):  # torch raises either if a backend is missing
        raise RangeError("trainer.device", name, "auto, or a device of this machine (cpu, cuda, cuda:1, mps)") from None
    return device


def set_threads(threads: int | None, work: int) -> int:
    """Use ``threads``, or as many as suit ``work`` (operations of one pass over the tasks of an update) → the number in use.

    OMP_NUM_THREADS, if a launcher or a user has set it, is this process's share of the cores.

    Raises:
        RangeError: more than `MOST_THREADS`, which OpenMP would try to start.
    """
    require(threads is None or threads <= MOST_THREADS, "trainer.threads", threads, f"at most {MOST_THREADS}")
    if threads is None:
        threads = 1 if work < ONE_THREAD_BELOW else cores()
    torch.set_num_threads(threads)
    return torch.get_num_threads()


def cores() -> int:
    """Number of cores that this process may use."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    if share.isdigit() and int(share) > 0:
        return int(share)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def make_deterministic(on: bool) -> None:
    """Allow only operations that give the same bytes from run to run (``on``), or any.

    cuBLAS reads the size of its workspace from the environment at its first use.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of returning them to the system after every operation.

    The activations of a convolution are tens of megabytes; mapping their pages anew took a third of an update (measured: conv4-64,
    360 images, 520 ms → 320 ms). No effect without glibc.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_max = -1, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
