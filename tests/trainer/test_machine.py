"""The device, threads and allocator of a run, on machines that are made believe."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from metarun.config import RangeError
from metarun.ranks import Ranks
from metarun.trainer import machine
from metarun.trainer.machine import choose_device, cores, keep_freed_memory, make_deterministic, set_threads


@pytest.fixture
def gpus(monkeypatch):
    """Let the machine have so many GPUs of NVIDIA, and perhaps Apple's."""

    def have(cuda, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


def refused(*given):
    with pytest.raises(RangeError) as caught:
        choose_device(*given)
    return str(caught.value)


@pytest.mark.parametrize(("cuda", "mps", "device"), [(1, False, "cuda"), (2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_is_the_gpu_where_there_is_one(cuda, mps, device, gpus):
    gpus(cuda, mps)
    assert choose_device("auto") == torch.device(device)
    assert choose_device("auto", Ranks(0, 1, 0)) == torch.device(device)


def test_a_device_that_is_named_is_taken_if_it_is_here(gpus, monkeypatch):
    gpus(2)
    assert choose_device("cpu") == torch.device("cpu")  # whatever there is
    expected = "auto, or a device of this machine (cpu, cuda, cuda:1, mps)"
    assert refused("toaster") == f"trainer.device=toaster: expected {expected}"
    tried = []

    def zeros(*shape, device):
        tried.append(str(device))
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "zeros", zeros)
    assert refused("cuda:7") == f"trainer.device=cuda:7: expected {expected}"
    assert tried == ["cuda:7"]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_of_several_processes_has_a_gpu_of_its_own(name, gpus):
    gpus(2)
    for rank in range(4):  # two machines with two GPUs each
        assert choose_device(name, Ranks(rank, 4, rank % 2)) == torch.device("cuda", rank % 2)
    assert refused(name, Ranks(2, 3, 2)) == "trainer.device=cuda: expected at most 2 processes here, a GPU for each"


def test_several_processes_share_the_processor(gpus):
    gpus(0, mps=True)
    assert choose_device("auto", Ranks(1, 2, 1)) == torch.device("cpu")
    gpus(2)
    assert choose_device("cpu", Ranks(3, 4, 3)) == torch.device("cpu")
    message = "expected auto, cpu or cuda: torchrun's processes have a GPU each"
    assert refused("cuda:1", Ranks(0, 2, 0)) == f"trainer.device=cuda:1: {message}"


# Threads -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "work", "found"),
    [(None, 0, 1), (None, 10**7 - 1, 1), (None, 10**7, 3), (None, 10**12, 3), (2, 10**12, 2), (2, 0, 2)],
)
def test_one_thread_for_little_work_and_all_cores_for_much(threads, work, found, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 3)
    assert set_threads(threads, work) == found
    assert torch.get_num_threads() == found


def test_more_threads_than_any_machine_has_are_refused(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    set_threads(1024, 0)
    with pytest.raises(RangeError) as caught:
        set_threads(1025, 0)
    assert str(caught.value) == "trainer.threads=1025: expected at most 1024"
    assert asked == [1024]


@pytest.mark.parametrize(
    ("share", "platform", "found"),
    [
        ("3", "linux", 3),
        ("1", "linux", 1),
        ("2", "darwin", 2),
        *((share, "linux", 5) for share in (None, "", "0", "-1", "4,2", "all")),
    ],
)
def test_cores_are_the_share_that_the_environment_gives_or_those_allowed(share, platform, found, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if share is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", share)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0: set(range(5))}[process], raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores() == found


@pytest.mark.parametrize(("count", "found"), [(8, 8), (None, 1)])
def test_cores_of_a_system_that_does_not_say_which_are_allowed(count, found, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cores() == found


# The same bytes ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def any_operation():
    """Put torch's switches back."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.usefixtures("any_operation")
def test_deterministic_sets_torchs_switches_and_cublas_workspace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    make_deterministic(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    make_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == (True, True)
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    make_deterministic(False)  # a run after another in one process
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic) == (False, False)


@pytest.mark.usefixtures("any_operation")
def test_a_workspace_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


# Memory --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "has", "expected"),
    [
        ("linux", ("mallopt", "gnu_get_libc_version"), [(-4, 0), (-1, 2**31 - 1)]),  # M_MMAP_MAX, M_TRIM_THRESHOLD
        ("linux", ("mallopt",), []),  # as musl has it
        ("linux", ("gnu_get_libc_version",), []),
        ("darwin", ("mallopt", "gnu_get_libc_version"), []),
    ],
)
def test_glibc_and_no_other_is_told_to_keep_freed_memory(platform, has, expected, monkeypatch):
    told = []
    functions = {"mallopt": lambda *given: told.append(given), "gnu_get_libc_version": lambda: b"2.36"}
    library = SimpleNamespace(**{name: functions[name] for name in has})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {None: library}[name])
    monkeypatch.setattr(sys, "platform", platform)
    keep_freed_memory()
    assert told == expected
