"""What a continual-learning method can do: hooks around the outer loop. This base does nothing, which is `cl=none`."""

from typing import Any

from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.data.source import Stage
from metarun.episodes import Episodes


class ContinualMethod:
    """Hooks of a method; each one that a method does not need stays as it is here.

    It acts on slow weights and in the outer loop only. An update calls `mix`, `loss`, the learner's own backward, `gradient`, the
    optimizer and `after_update`, in this order.
    """

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        """Stage ``stage`` (0, 1, …) is about to be trained."""

    def mix(self, episodes: Episodes) -> Episodes:
        """The tasks to train on, memories mixed in."""
        return episodes

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        """A term to add to the outer loss, (), or None."""
        return None

    def gradient(self, algorithm: Algorithm) -> None:
        """Change the gradients of the slow weights: add a penalty's, or project."""

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        """The optimizer has made its step."""

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> None:
        """A stage has been trained: consolidate what must be kept."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` continues to the same bytes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
