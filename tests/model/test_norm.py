"""The CPU's batch norm is a batch norm: in value, gradient and the gradient's gradient."""

import pytest
import torch

from metarun.model.norm import EPS, Norm, batch_norm


def plain(x, weight, bias, eps=EPS):
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    standard = (x - mean) / torch.sqrt(var + eps)
    return standard * (1 if weight is None else weight.unsqueeze(-2)) + bias.unsqueeze(-2)


@pytest.mark.parametrize("eps", [EPS, 0.3])
@pytest.mark.parametrize("scale", ["shared", "per task", None])
def test_it_equals_its_plain_twin_to_the_second_order(scale, eps):
    x = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    shape = (4,) if scale == "shared" else (3, 4)
    weight = None if scale is None else torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [v for v in (x, weight, bias) if v is not None]
    out, mean, var = batch_norm(x, weight, bias, eps)
    torch.testing.assert_close(out, plain(x, weight, bias, eps), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mean, x.mean(1))
    torch.testing.assert_close(var, x.var(1))

    def call(*values):
        given = iter(values)
        return batch_norm(next(given), None if weight is None else next(given), next(given), eps)[0]

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_it_keeps_its_figures_far_from_zero():
    x = torch.randn(2, 500, 3) + 1000
    found, _, _ = batch_norm(x, None, torch.zeros(3))
    torch.testing.assert_close(found.double(), plain(x.double(), None, torch.zeros(3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("record", [None, "values", "graph"])
@pytest.mark.parametrize("given", [False, True])
def test_a_pass_takes_the_layers_epsilon(record, given):
    """Whatever statistics normalise, and by whichever of the forms of a batch norm."""
    x, weight, bias = torch.randn(5, 2, 3, 4, 4, dtype=torch.float64), *torch.randn(2, 3, dtype=torch.float64)
    of_tasks = x.permute(1, 0, 3, 4, 2).flatten(1, 3)
    own = of_tasks.mean(1), of_tasks.var(1, correction=0)
    norm = Norm({"0": own} if given else None, record)
    found = norm("0", x, weight, bias, 0.3).permute(1, 0, 3, 4, 2).flatten(1, 3)
    torch.testing.assert_close(found, plain(of_tasks, weight, bias, 0.3))
