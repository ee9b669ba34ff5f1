"""Dark experience replay (Buzzega et al., NeurIPS 2020): store the learner's logits along with the labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm, eval_mode
from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import unmasked
from metarun.config import require
from metarun.episodes import Episodes


class DER(RehearsalMethod):
    """Adds α times the mean squared change of the logits of stored tasks, and β times the loss on others (DER++, equation 6).

    The memory is a reservoir of all training tasks; each is stored with its logits at that time. As in the authors' code (mammoth),
    these are the logits of all outputs, even if only those of the stage are active in its loss. Here they are computed after the
    update in evaluation mode; in that code, in the forward pass of the update.

    Args:
        size: number of tasks (examples) to store.
        alpha: α.
        beta: β; 0: plain DER.
        draw: number of stored tasks for each of the two terms; null: as many as new tasks.
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
