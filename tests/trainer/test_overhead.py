"""What the trainer adds to an update, counted and not timed; and how exactly it multiplies."""

import pytest
import torch
from shared_out import made
from streams import learner, method, stream, train
from torch.utils._python_dispatch import TorchDispatchMode
from updates import loop_of


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def test_an_update_is_the_learners_the_optimizers_and_two_operations(tmp_path):
    stages, algorithm = made("maml", "sine")
    adam = {"_target_": "torch.optim.Adam", "lr": 0.01}
    loop = loop_of(tmp_path, algorithm, stages, optimizer=adam)
    batches = loop.feed.batches(stages[0].train, 0, 100)
    loop.step(batches)  # samples the tasks of the next ones, too, and makes the optimizer's moments
    optimizer = torch.optim.Adam(algorithm.parameters(), fused=True)
    episodes = stages[0].train.sample(torch.arange(5))
    algorithm.backward(episodes)
    optimizer.step()
    optimizer.zero_grad()
    with Counted() as bare:
        algorithm.backward(episodes)
        optimizer.step()
    with Counted() as whole:
        loop.step(batches)
    beside = sorted(whole.calls)
    for call in bare.calls:
        beside.remove(call)
    assert beside == ["aten.add_.Tensor", "aten.mean.default"]  # of the loss, to be logged


@pytest.mark.parametrize(("precision", "products"), [("tf32", "high"), ("float32", "highest"), ("bfloat16", "highest")])
def test_precision_of_matrix_products(precision, products, tmp_path):
    data = stream()
    train(tmp_path, data, method("none"), iterations=1, algorithm=learner(data), precision=precision)
    assert torch.get_float32_matmul_precision() == products
