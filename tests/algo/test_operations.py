"""What an update asks of the machine, counted in operations and not in seconds: as much for many tasks as for few."""

from collections import Counter

import pytest
import torch
from runs import composed
from small import LINE, PICTURES, conv, images, mlp, regression, strided
from torch.utils._python_dispatch import TorchDispatchMode

from metarun.algo.maml import MAML
from metarun.config import CONFIGS
from metarun.parts import build_parts

ALGORITHMS = sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))
CLASSIFIERS = {"protonet", "matchingnet", "relationnet"}
TO_THE_HOST = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
"""Operations that make the host wait for the device."""


class Operations(TorchDispatchMode):
    """Counts them by name for the length of the block; those that only look at memory otherwise are free."""

    def __enter__(self):
        self.counts = Counter()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operations(algorithm, episodes):
    with Operations() as seen:
        algorithm.backward(episodes)
    return seen.counts


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("spec", "network", "draw"), [(LINE, mlp, regression), (PICTURES, conv, images), (PICTURES, strided, images)]
)
def test_more_tasks_are_no_more_operations(spec, network, draw, first_order):
    algorithm = MAML(spec, network, 0.1, inner_steps=2, first_order=first_order, task_chunk=100).double()
    algorithm.backward(draw(tasks=2))  # so that gradients are there to be added to
    few, many = (operations(algorithm, draw(tasks=tasks)) for tasks in (2, 7))
    assert few == many


@pytest.mark.parametrize("algo", [a for a in ALGORITHMS if a not in CLASSIFIERS])
def test_an_update_does_not_wait_for_the_device(algo):
    parts = build_parts(composed(f"algo={algo}", "data=sine"))
    stage = parts.data.stages(torch.device("cpu"))[0]
    if not parts.algorithm.trains:
        return
    episodes = stage.train.sample(torch.arange(3))
    parts.algorithm.backward(episodes)
    found = operations(parts.algorithm, episodes)
    assert found
    assert not [name for name in TO_THE_HOST if found[name]]
