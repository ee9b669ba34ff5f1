"""The CPU's batch norm is a batch norm: in value, gradient and the gradient's gradient."""

import pytest
import torch

from metarun.model.norm import EPS, batch_norm


def plain(x, weight, bias):
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    standard = (x - mean) / torch.sqrt(var + EPS)
    return standard * (1 if weight is None else weight.unsqueeze(-2)) + bias.unsqueeze(-2)


@pytest.mark.parametrize("scale", ["shared", "per task", None])
def test_it_equals_its_plain_twin_to_the_second_order(scale):
    x = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    shape = (4,) if scale == "shared" else (3, 4)
    weight = None if scale is None else torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [v for v in (x, weight, bias) if v is not None]
    out, mean, var = batch_norm(x, weight, bias)
    torch.testing.assert_close(out, plain(x, weight, bias), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mean, x.mean(1))
    torch.testing.assert_close(var, x.var(1))

    def call(*values):
        given = iter(values)
        return batch_norm(next(given), None if weight is None else next(given), next(given))[0]

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_it_keeps_its_figures_far_from_zero():
    x = torch.randn(2, 500, 3) + 1000
    found, _, _ = batch_norm(x, None, torch.zeros(3))
    torch.testing.assert_close(found.double(), plain(x.double(), None, torch.zeros(3)), rtol=1e-3, atol=1e-3)
