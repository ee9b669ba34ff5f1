"""Dark experience replay (Buzzega et al., NeurIPS 2020): remember what the learner said, not only what was right."""

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm, eval_mode
from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import unmasked
from metarun.config import require
from metarun.episodes import Episodes


class DER(RehearsalMethod):
    """Adds α · mean square of (logits now − logits then) on remembered tasks, and β times their loss on others (DER++, eq. 6).

    The memory is a reservoir over all that has been trained on; it keeps each task with the logits of the time. As in the authors'
    code (mammoth) logits are those of all outputs, also where only those of a stage are active in its loss. Here they are taken
    after the update and in evaluation mode; in that code, in the update's own pass.

    Args:
        size: tasks (examples) to keep.
        alpha: α.
        beta: β; 0: plain DER.
        draw: remembered tasks for each of the terms; null: as many as new ones.
    """

    sees_tasks = True
    observes = True

    def __init__(self, size: int = 1000, alpha: float = 0.5, beta: float = 0.5, draw: int | None = None) -> None:
        super().__init__(size, draw)
        require(alpha >= 0, "alpha", alpha, "0 or more")
        require(beta >= 0, "beta", beta, "0 or more")
        self.alpha, self.beta = alpha, beta

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        if not len(self.memory):
            return None
        count = self.number or len(episodes)
        old = self.memory.draw(count)
        term = self.alpha * F.mse_loss(algorithm.outputs_and_targets(unmasked(old))[0], old.context["logits"])
        if self.beta:
            term = term + self.beta * algorithm.losses(self.memory.draw(count)).mean()
        return term

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        with torch.no_grad(), eval_mode(algorithm):
            logits, _ = algorithm.outputs_and_targets(unmasked(episodes))
        self.memory.offer(Episodes(episodes.support, episodes.query, episodes.context | {"logits": logits}), self.size)
