"""One outer update: tensors in, tensors out. It knows no file, no clock and no log, and never waits for the device."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm, weighted
from metarun.cl.method import ContinualMethod, implicit
from metarun.episodes import Episodes
from metarun.trainer.guard import Guard
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding


class Step(NamedTuple):
    """Results of one update, () tensors on the learner's device; losses are 0 in an update that was reverted.

    Attributes:
        loss: mean over all processes of the learner's own loss, with the weights of tasks.
        extra: what the continual method adds to the loss; None: nothing.
        penalty: value of the penalty whose gradient the method adds; None: there is none.
        finite: whether the update was made; None without a guard, which makes every update.
    """

    loss: Tensor
    extra: Tensor | None
    penalty: Tensor | None
    finite: Tensor | None


class Update:
    """Moves the slow weights once, by the learner's gradient and the continual method's.

    Args:
        algorithm: the learner, in training mode.
        method: of continual learning.
        optimizer: of the slow weights.
        settings: for `clip`, `clip_value` and `precision`.
        sharding: which tasks this process learns from.
        guard: reverts updates that are not finite; None: no update is reverted.
        backward: adds the learner's gradient to the slow weights' and returns the losses; None: `Algorithm.backward`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        method: ContinualMethod,
        optimizer: OuterOptimizer,
        settings: Settings,
        sharding: Sharding,
        guard: Guard | None = None,
        backward: Callable[[Episodes], Tensor] | None = None,
    ) -> None:
        self.algorithm, self.method, self.optimizer = algorithm, method, optimizer
        self.settings, self.sharding, self.guard = settings, sharding, guard
        self._gradient = backward or algorithm.backward
        self.device = next(algorithm.parameters()).device

    def __call__(self, episodes: Episodes) -> Step:
        """Learn from ``episodes``, the sampled tasks of this update."""
        self.optimizer.clear_gradients()
        if self.guard:
            self.guard.begin()
        with self._precision():
            own, share = self.sharding.own(self.method.mix(episodes))
            losses = self._backward(own)
            loss = weighted(losses, own).mean()
            extra = self._backward_of_method(episodes)
        penalty = self.method.penalty(self.algorithm)
        bad = [(~losses.isfinite()).to(loss.dtype).mean()] if self.guard else []
        self._average([loss, *bad], share)
        if self.guard:
            self.guard.judge(loss, bad[0] * (len(own) / share))
        self._change_gradients()
        self.optimizer.step()
        step = Step(loss, None if extra is None else extra.detach(), None if penalty is None else penalty.detach(), None)
        if not self.guard:
            return step
        self.guard.end()
        return _zero_if_reverted(step, self.guard.finite)

    def _precision(self) -> AbstractContextManager[None]:
        bfloat16 = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext()

    def _backward(self, own: Episodes) -> Tensor:
        """The learner's losses (T,), their gradients left in the weights."""
        with self.sharding.ranks.independent_draws(self.device, shared=self.algorithm.draws_once):
            return self._gradient(own)

    def _backward_of_method(self, episodes: Episodes) -> Tensor | None:
        """The method's term of the loss, its gradient added to the learner's."""
        extra = self.method.loss(self.algorithm, episodes)
        if extra is None:
            return None
        (extra * self.algorithm.gradient_scale).backward()
        self.algorithm.write_statistics()
        return extra

    def _average(self, values: list[Tensor], share: float) -> None:
        """Average ``values``, gradients and statistics over the processes.

        Running statistics and the like move towards a mean over tasks, so the mean of what each shard gave is right.
        """
        ranks = self.sharding.ranks
        if ranks.size > 1:
            statistics = [buffer for buffer in self.algorithm.buffers() if buffer.is_floating_point()]
            gradients = [w.grad for w in self.algorithm.parameters() if w.grad is not None]
            ranks.all_reduce_mean([*values, *gradients, *statistics], share)

    def _change_gradients(self) -> None:
        """Let the method add to the gradients and project them, then clip them."""
        method, algorithm, optimizer = self.method, self.algorithm, self.optimizer.torch
        method.gradient(algorithm)
        if isinstance(optimizer, torch.optim.SGD):
            implicit(algorithm, method.curvature(algorithm), optimizer)
        method.project(algorithm)
        if self.settings.clip_value is not None:
            clip_values(algorithm.parameters(), self.settings.clip_value)
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(algorithm.parameters(), self.settings.clip)


def _zero_if_reverted(step: Step, finite: Tensor) -> Step:
    extra, penalty = (None if part is None else torch.where(finite, part, 0) for part in (step.extra, step.penalty))
    return Step(torch.where(finite, step.loss, 0), extra, penalty, finite)


@torch.no_grad()
def clip_values(parameters: Iterable[Tensor], limit: float) -> None:
    """Clamp each component of the gradients to [-limit, limit].

    An infinite component becomes NaN, where `torch.nn.utils.clip_grad_value_` would make it ``limit``: it must not pass for finite.
    """
    for w in parameters:
        if w.grad is not None:
            w.grad = torch.where(w.grad.isfinite(), w.grad.clamp(-limit, limit), torch.nan)
