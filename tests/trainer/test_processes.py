"""Calls between processes, on a torch.distributed that is made believe: another process has as much again, or is gone."""

from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from metarun.ranks import Ranks
from metarun.rng import derive
from metarun.trainer import ranks as module
from metarun.trainer.ranks import Lost, Processes, connected

CPU = torch.device("cpu")


@pytest.fixture
def dist(monkeypatch):
    """Of two processes; ``error`` is raised by every call."""
    notes = []

    def call(name, act):
        def called(*given, **keys):
            notes.append(name)
            if fake.error is not None:
                raise fake.error
            act(*given, **keys)

        return called

    def all_reduce(values, op="sum"):
        values.copy_({"sum": values + 1, "max": values.clamp(min=5)}[op])
        assert values.device == CPU

    def init(backend, timeout):
        notes.append((backend, timeout.total_seconds()))

    fake = SimpleNamespace(
        error=None,
        notes=notes,
        ReduceOp=SimpleNamespace(MAX="max"),
        all_reduce=call("all_reduce", all_reduce),
        broadcast_object_list=call("broadcast", lambda values: values.__setitem__(0, ("first", values[0]))),
        all_gather_object=call(
            "gather", lambda values, own: values.__setitem__(slice(None), [(own, i) for i in range(len(values))])
        ),
        init_process_group=call("init", init),
        destroy_process_group=lambda: notes.append("destroyed"),
    )
    monkeypatch.setattr(module, "dist", fake)
    return fake


def test_means_are_sums_of_weighted_tensors_in_one_call(dist):
    a, b, c = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), tensor(8.0), tensor([16.0])
    Processes(1, 2).all_reduce_mean([a, b, c], 0.25)
    assert a.tolist() == [[1.25, 1.5], [1.75, 2.0]]
    assert (float(b), c.tolist()) == (3.0, [5.0])
    assert dist.notes == ["all_reduce"]


def test_the_largest_values_are_exact_numbers(dist):
    found = Processes(0, 2).all_reduce_max(3, 2**53 + 1)
    assert found == (5, 2**53 + 1)
    assert all(type(value) is int for value in found)


def test_values_of_the_first_and_of_all(dist):
    ranks = Processes(1, 3)
    assert ranks.broadcast("mine") == ("first", "mine")
    assert ranks.gather("mine") == [("mine", 0), ("mine", 1), ("mine", 2)]


@pytest.mark.parametrize("call", ["all_reduce_mean", "all_reduce_max", "broadcast", "gather", "connected"])
@pytest.mark.parametrize(("text", "why"), [("Connection closed. [pair.cc]\nmore", "Connection closed"), ("", "RuntimeError")])
def test_whichever_call_meets_a_dead_process_says_so_in_one_line(call, text, why, dist):
    dist.error = RuntimeError(text)
    ranks = Processes(0, 2)
    calls = {
        "all_reduce_mean": lambda: ranks.all_reduce_mean([tensor(1.0)], 1.0),
        "all_reduce_max": lambda: ranks.all_reduce_max(1),
        "broadcast": lambda: ranks.broadcast(1),
        "gather": lambda: ranks.gather(1),
        "connected": lambda: connected(Ranks(0, 2)).__enter__(),
    }
    with pytest.raises(Lost) as caught:
        calls[call]()
    message = "torchrun: another process of this run has ended or hangs; the same command goes on from the last checkpoint"
    assert str(caught.value) == f"{message} ({why})"
    assert caught.value.__cause__ is dist.error


@pytest.mark.parametrize(("rank", "shared", "seed"), [(0, False, 7), (0, True, 7), (1, True, 7), (1, False, derive(7, "rank", 1))])
def test_draws_differ_by_process_unless_they_are_shared(rank, shared, seed):
    torch.manual_seed(7)
    with Processes(rank, 2).independent_draws(CPU, shared=shared):
        drawn = float(torch.rand(()))
    after = float(torch.rand(()))
    expected = torch.rand((), generator=torch.Generator().manual_seed(seed))
    assert drawn == float(expected)
    assert after == float(torch.rand((), generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize(("device", "forked"), [("cpu", []), ("cuda:1", [torch.device("cuda:1")])])
def test_a_gpus_generator_is_put_back_too(device, forked, monkeypatch):
    own, seen = torch.random.fork_rng, []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: (seen.append(devices), own([]))[1])
    with Processes(0, 2).independent_draws(torch.device(device), shared=False):
        pass
    assert seen == [forked]


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (2, "cpu:gloo,cuda:nccl")])
def test_processes_are_connected_for_the_block(gpus, backend, dist, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with connected(Ranks(5, 8, 3)) as found:
        assert dist.notes == ["init", (backend, 1800)]
        assert (found.rank, found.size, found.local) == (5, 8, 3)
        assert isinstance(found, Processes)
    assert dist.notes[-1] == "destroyed"
    assert taken == ([1] if gpus else [])


def test_the_others_are_not_waited_for_after_an_error(dist):
    with pytest.raises(ZeroDivisionError), connected(Ranks(0, 2)):
        raise ZeroDivisionError
    assert "destroyed" not in dist.notes
