"""A convolution of each task equals torch's, task by task: in value, gradient and the gradient's gradient."""

import pytest
import torch
from torch.nn import functional as F

from metarun.model import convolution
from metarun.model.convolution import convolve_tasks
from metarun.model.layers import as_images, convolve, per_task


def plain(x, weight, stride):
    """Loop over tasks: (T, n, H, W, C) by (T, O, C, k, k)."""
    padding = weight.shape[-1] // 2
    of_tasks = zip(x.movedim(-1, 2), weight, strict=True)
    return torch.stack([F.conv2d(a, w, None, stride, padding) for a, w in of_tasks]).movedim(2, -1)


@pytest.fixture(params=["patches", "task by task"])
def way(request, monkeypatch):
    monkeypatch.setattr(convolution, "CACHED", 0 if request.param == "task by task" else 2**40)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("side", "size", "channels"), [(4, 3, 2), (5, 3, 1), (3, 1, 2)])
def test_it_equals_its_plain_twin_to_the_second_order(way, stride, side, size, channels):
    x = torch.randn(2, 2, side, side, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, channels, size, size, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(convolve_tasks(x, weight, stride), plain(x, weight, stride))
    assert torch.autograd.gradcheck(lambda x, w: convolve_tasks(x, w, stride), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: convolve_tasks(x, w, stride), (x, weight))


def test_shared_weights_have_a_gradient_of_each_task(way):
    x = torch.randn(3, 2, 6, 6, 2, dtype=torch.float64)
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)

    def gradients(function, expanded):
        w = expanded.requires_grad_()
        loss = function(x, w, 2).square().sum()
        (first,) = torch.autograd.grad(loss, w, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), w)
        return first, second

    found = gradients(convolve_tasks, per_task(weight, 3).detach())
    expected = gradients(plain, weight.expand(3, -1, -1, -1, -1).clone())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_one_set_of_weights_equals_a_copy_for_each_task(stride):
    images = as_images(torch.randn(3, 4, 2, 9, 9, dtype=torch.float64))
    weight = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    assert images.shape == (4, 3, 2, 9, 9)
    torch.testing.assert_close(convolve(images, weight, stride), convolve(images, weight.expand(3, -1, -1, -1, -1).clone(), stride))
