"""Implicit MAML: its linear systems, and its gradient against back-propagation through a converged inner loop."""

from functools import partial

import pytest
import torch
from reference import copies, descend, gradients_of, part, peak_saved_bytes, plain_loss
from small import LINE, PICTURES, conv, images, regression
from torch import nn
from torch.func import functional_call

from metarun.algo.imaml import IMAML, conjugate_gradient
from metarun.model.network import as_network


def smooth_line(outputs):
    """Smooth, so that descent converges: at the kink of a ReLU it would go back and forth."""
    return as_network(nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Linear(7, outputs)))


def smooth_images(outputs):
    return as_network(nn.Sequential(nn.Conv2d(1, 3, 3, stride=4), nn.Tanh(), nn.Flatten(), nn.Linear(48, outputs)))


KINDS = {"mlp": (LINE, smooth_line, regression), "conv": (PICTURES, smooth_images, images)}


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_through_a_converged_inner_loop(kind):
    spec, factory, episodes = KINDS[kind]
    rate, proximal = 0.2, 1.5
    algorithm = IMAML(spec, factory, rate, inner_steps=80, proximal=proximal, cg_steps=40, damping=0.0).double()
    tasks = episodes(tasks=2)
    weights = part(copies(algorithm), "network.module.")

    def forward(w, x):
        return functional_call(algorithm.network.module, w, (x,))

    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):

        def support_loss(step, w, t=t):
            away = sum((w[name] - weights[name]).square().sum() for name in w)
            return plain_loss(forward(w, tasks.support.x[t]), tasks.support.y[t]) + proximal / 2 * away

        fast = descend(support_loss, weights, lambda step, name: rate, 80)[-1]
        loss = loss + plain_loss(forward(fast, tasks.query.x[t]), tasks.query.y[t]) / len(tasks)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(weights.values()))])
    losses, found = gradients_of(algorithm, tasks)
    implicit = torch.cat([found[f"network.module.{name}"].flatten() for name in weights])
    torch.testing.assert_close(losses.mean(), loss.detach())
    assert (implicit - exact).norm() / exact.norm() < 1e-3


def test_conjugate_gradient_solves_a_system_a_task():
    matrices = torch.randn(3, 6, 6, dtype=torch.float64)
    matrices = matrices @ matrices.mT + 0.5 * torch.eye(6, dtype=torch.float64)
    right = torch.randn(3, 6, dtype=torch.float64)

    def system(parts):
        out = torch.einsum("tij,tj->ti", matrices, torch.cat([p.flatten(1) for p in parts], 1))
        return [out[:, :4].view(3, 2, 2), out[:, 4:]]

    found = conjugate_gradient(system, [right[:, :4].view(3, 2, 2), right[:, 4:]], 6)
    torch.testing.assert_close(torch.cat([p.flatten(1) for p in found], 1), torch.linalg.solve(matrices, right))


def test_a_first_direction_of_negative_curvature_is_the_first_order_gradient():
    signs = torch.tensor([[2.0, 2.0], [-1.0, -1.0], [0.0, 0.0]])
    (found,) = conjugate_gradient(lambda parts: [signs * parts[0]], [torch.ones(3, 2)], 5)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [1.0, 1.0], [1.0, 1.0]]))


def plain_conjugate_gradient(matrix, b, steps):
    """Of one system, stopping where the textbook's does."""
    x, residual, direction = torch.zeros_like(b), b, b
    for step in range(steps):
        curvature = direction @ matrix @ direction
        if curvature <= 0:
            return b if step == 0 else x
        length = residual @ residual / curvature
        x, before = x + length * direction, residual
        residual = residual - length * matrix @ direction
        direction = residual + residual @ residual / (before @ before) * direction
    return x


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_task_stops_for_good_where_its_system_is_indefinite(steps):
    """By hand: diag(1, -0.5, 2) and (1, 1.2, 0.3) have curvature 0.46 and then -1.05, so the solution stays at rest/0.46 · b."""
    diagonal, b = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64), torch.tensor([1.0, 1.2, 0.3], dtype=torch.float64)
    matrices = torch.randn(30, 3, 3, dtype=torch.float64)
    matrices = torch.cat([torch.diag(diagonal)[None], matrices + matrices.mT])
    right = torch.cat([b[None], torch.randn(30, 3, dtype=torch.float64)])
    (found,) = conjugate_gradient(lambda parts: [torch.einsum("tij,tj->ti", matrices, parts[0])], [right], steps)
    torch.testing.assert_close(found[0], 2.53 / 0.46 * b)
    for x, matrix, b in zip(found, matrices, right, strict=True):
        expected = plain_conjugate_gradient(matrix, b, min(steps, 3))  # three unknowns are solved in three steps
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-8)


def test_memory_does_not_grow_with_inner_steps():
    tasks = images(tasks=2, dtype=torch.float32)
    one, many = (peak_saved_bytes(partial(IMAML(PICTURES, conv, 0.05, inner_steps=steps).backward, tasks)) for steps in (1, 8))
    assert one == many
