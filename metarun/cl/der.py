"""Dark experience replay (Buzzega et al., NeurIPS 2020): remember what the learner said, not only what was right."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm, eval_mode
from metarun.cl.memory import Memory
from metarun.cl.method import ContinualMethod
from metarun.config import require
from metarun.episodes import Episodes


class DER(ContinualMethod):
    """Adds α · mean square of (logits now − logits then) on remembered tasks, and β times their loss on others (DER++, eq. 6).

    The memory is a reservoir over all that has been trained on; it keeps each task with the logits of the time.

    Args:
        size: tasks (examples) to keep.
        alpha: α.
        beta: β; 0: plain DER.
        draw: remembered tasks for each of the terms; null: as many as new ones.
    """

    def __init__(self, size: int = 1000, alpha: float = 0.5, beta: float = 0.5, draw: int | None = None) -> None:
        require(size > 0, "size", size, "1 or more")
        require(alpha >= 0, "alpha", alpha, "0 or more")
        require(beta >= 0, "beta", beta, "0 or more")
        require(draw is None or draw > 0, "draw", draw, "1 or more, or null")
        self.size, self.alpha, self.beta, self.number = size, alpha, beta, draw
        self.memory = Memory()

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        if not len(self.memory):
            return None
        count = self.number or len(episodes)
        old = self.memory.draw(count)
        term = self.alpha * F.mse_loss(algorithm.answers(old)[0], old.context["logits"])
        if self.beta:
            term = term + self.beta * algorithm.losses(self.memory.draw(count)).mean()
        return term

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        with torch.no_grad(), eval_mode(algorithm):
            logits, _ = algorithm.answers(episodes)
        self.memory.offer(Episodes(episodes.support, episodes.query, episodes.context | {"logits": logits}), self.size)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"], self.device)
