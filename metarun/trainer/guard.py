"""Reverts updates that are not finite on the device, without a host synchronisation."""

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm


class Guard:
    """Reverts an update whose losses or gradients are not finite: weights, statistics and the optimizer's state.

    A copy of the state before each update doubles its memory.

    Args:
        algorithm: the learner.
        optimizer: of its weights.
    """

    def __init__(self, algorithm: Algorithm, optimizer: torch.optim.Optimizer) -> None:
        self.algorithm, self.optimizer = algorithm, optimizer
        device = next(algorithm.parameters()).device
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        """Whether the present update is finite as far as it has come, () bool."""
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)
        """Updates reverted and tasks whose losses were not finite, (2,), see `take_counts`."""
        self._before: list[tuple[Tensor, Tensor]] = []
        self._states: dict[tuple[Tensor, str], Tensor] = {}

    @torch.no_grad()
    def begin(self) -> None:
        """Copy the state before an update."""
        self._before = [(value, value.clone()) for value in self.algorithm.state_dict(keep_vars=True).values()]
        self._states = {at: value.clone() for at, value in self._optimizer_state().items()}

    @torch.no_grad()
    def judge(self, loss: Tensor, bad: Tensor) -> None:
        """After the backward passes: set the gradients to 0 if the mean ``loss`` or a gradient is not finite.

        ``bad`` is the number of tasks whose losses are not finite, () float.
        """
        self.counts[1] += bad.round().long()
        self.finite = loss.isfinite() & self._gradients_finite()
        for w in self.algorithm.parameters():
            if w.grad is not None:
                w.grad = torch.where(self.finite, w.grad, 0)

    @torch.no_grad()
    def end(self) -> None:
        """After the optimizer's step: restore the copy unless everything was finite."""
        self.finite = self.finite & self._gradients_finite()
        for value, before in self._before:
            value.copy_(torch.where(self.finite, value, before))
        for at, value in self._optimizer_state().items():  # state that the first step created was 0 before
            finite = self.finite.to(value.device)
            value.copy_(torch.where(finite, value, self._states.get(at, torch.zeros_like(value))))
        self.counts[0] += ~self.finite

    def take_counts(self) -> tuple[int, int]:
        """Updates reverted and tasks whose losses were not finite since the last call, which waits for the device."""
        updates, tasks = self.counts.tolist()
        self.counts.zero_()
        return updates, tasks

    def _gradients_finite(self) -> Tensor:
        finite = [w.grad.isfinite().all() for w in self.algorithm.parameters() if w.grad is not None]
        return torch.stack([torch.ones_like(self.finite), *finite]).all()

    def _optimizer_state(self) -> dict[tuple[Tensor, str], Tensor]:
        states = self.optimizer.state.items()
        return {(w, name): value for w, of in states for name, value in of.items() if isinstance(value, Tensor)}
