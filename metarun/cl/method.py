"""What a continual-learning method can do: hooks around the outer loop. This base does nothing, which is `cl=none`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.config import ConfigError
from metarun.data.source import Stage, TaskSource
from metarun.episodes import Episodes
from metarun.model.network import Weights

Needs = Literal["nothing", "boundaries", "stages"]


class ContinualMethod:
    """Hooks of a method; each one that a method does not need stays as it is here.

    It acts on slow weights and in the outer loop only. An update calls `mix`, the learner's own backward, `loss`, `gradient`,
    `curvature`, `project`, the optimizer and `after_update`, in this order; `loss` and `after_update` are given the stage's own
    tasks, without what `mix` did. Before `grow`, before the ends of a stage and before every update torch's generator is set from
    the seed and the step, so what a method draws from it is the same in a resumed run.

    What the trainer must know of a method is declared, by attributes that are False here. A class that defines one of these hooks
    declares its attribute; `check_declared` refuses one that does not.

    Attributes:
        sees_tasks: whether `mix`, `loss` or `after_update` uses the tasks of an update. Each of several processes then samples all
            of them, and not its own alone.
        observes: whether `after_update` must be called for those updates alone that were made, which with trainer.nonfinite=skip
            waits for the device.
        gives_tasks: whether `source` says where tasks come from.
        stage: number of the stage in training (0, 1, …); the trainer says it by `enter`.
        needs: what it must be told of a stream: nothing, when a stage ends (which may be guessed), or the stage itself.
        announced: whether the stream tells when a stage ends; the trainer says it before `on_start`.
        seed: of the run; the trainer sets it before `on_start`.
        per_stage: names of the learner's weights of which each stage has its own; set by `on_start`. The trainer drops the
            optimizer's moments of them when a stage starts, and penalties leave them out.
        stages: all of them, in the order taken; with trainer.order=active those to come may still change places.
        device: of the learner.
    """

    sees_tasks: bool = False
    observes: bool = False
    gives_tasks: bool = False
    needs: Needs = "nothing"
    announced: bool = True
    seed: int = 0
    per_stage: frozenset[str] = frozenset()
    stage: int = 0
    stages: list[Stage]
    device: torch.device

    def conflict(self, other: "ContinualMethod") -> str | None:
        """Why this method cannot be combined with ``other`` in a list, as the end of a sentence; None: it can."""
        return None

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        """The learner has its initial weights and no optimizer; training will start, or continue from `load_state_dict`."""
        self.stages, self.device = stages, next(algorithm.parameters()).device

    def grow(self, algorithm: Algorithm, stage: int) -> None:
        """Give the learner the parameters that stage ``stage`` adds.

        A resumed run calls this again for each stage begun, before it loads any weights.
        """

    def enter(self, stage: int) -> None:
        """What follows is in stage ``stage``: it starts, or a resumed run is in it."""
        self.stage = stage

    def source(self, stage: int) -> TaskSource:
        """Where the tasks of stage ``stage``'s updates come from."""
        return self.stages[stage].train

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        """Stage ``stage`` is about to be trained."""

    def mix(self, episodes: Episodes) -> Episodes:
        """The tasks to train on, memories mixed in."""
        return episodes

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        """A term to add to the outer loss, (), or None."""
        return None

    def penalty(self, algorithm: Algorithm) -> Tensor | None:
        """The value of the penalty whose gradient `gradient` adds, (), to be logged; None: there is none."""
        return None

    def gradient(self, algorithm: Algorithm) -> None:
        """Add the gradient of a penalty to those of the slow weights, or change them in another way."""

    def curvature(self, algorithm: Algorithm) -> Weights:
        """The second derivatives of the quadratic whose gradient `gradient` adds, by the weights' names.

        Under SGD the trainer uses them to make the quadratic's step implicit, see `implicit`.
        """
        return {}

    def project(self, algorithm: Algorithm) -> None:
        """Project the gradients of the slow weights, those of all penalties included."""

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        """The optimizer has made its step."""

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float] | None:
        """A stage has been trained: consolidate what must be kept → figures to log, by name."""
        return None

    @contextmanager
    def testing(self, algorithm: Algorithm, stage: int) -> Iterator[None]:
        """The learner as it is tested on stage ``stage``, for the length of the block."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` continues to the same bytes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave; its tensors are on the CPU."""


DECLARED = {"mix": "sees_tasks", "loss": "sees_tasks", "after_update": "observes", "source": "gives_tasks"}
"""The attribute that goes with a hook; `after_update` is given the tasks, too, and goes with `sees_tasks` as well."""


def check_declared(method: ContinualMethod) -> None:
    """Refuse a method that defines a hook and does not declare what the trainer must know of it.

    Raises:
        ConfigError: an attribute is neither True nor set by the class that defines the hook, or by one derived from it.
    """
    for hook, attribute in [*DECLARED.items(), ("after_update", "sees_tasks")]:
        kinds = type(method).__mro__
        defines = next(place for place, kind in enumerate(kinds) if hook in vars(kind))
        declares = next(place for place, kind in enumerate(kinds) if attribute in vars(kind))
        if kinds[defines] is not ContinualMethod and declares > defines and not getattr(method, attribute):
            name, line = type(method).__name__, f"{attribute} = True"
            raise ConfigError(f"cl: {name} defines {hook} and does not declare {attribute}; add `{line}` to it, or False")


def reweight(episodes: Episodes, weight: Tensor | float) -> Episodes:
    """The same tasks, the weights of their losses multiplied by ``weight``, (T,) or ()."""
    present = episodes.context.get("weight", episodes.query.x.new_ones(len(episodes)))
    return Episodes(episodes.support, episodes.query, episodes.context | {"weight": present * weight})


def unmasked(episodes: Episodes) -> Episodes:
    """The same tasks with all outputs active, for the logits of all stages."""
    context = {name: value for name, value in episodes.context.items() if name != "active"}
    return Episodes(episodes.support, episodes.query, context)


@torch.no_grad()
def implicit(algorithm: Algorithm, curvature: Weights, optimizer: torch.optim.SGD) -> None:
    """Make SGD's step implicit in a quadratic whose gradient has already been added to the gradients.

    An explicit step of rate η on a loss with gradient g and a quadratic ½ c (w − a)², w' = w − η (g + c (w − a)), diverges where
    η c > 2. The implicit (proximal) step takes the quadratic's gradient at w' and is stable for every c. It solves
    w' = w − η (g + c (w' − a)), so w' = (w + η c a − η g) / (1 + η c): the explicit step with its gradient divided by 1 + η c.
    Both steps have the same fixed points.

    Momentum then averages the divided gradients, and stays stable. Weight decay is part of g: SGD adds it itself, so it is
    included before the division and subtracted again.

    Args:
        algorithm: the learner, whose gradients are changed.
        curvature: c of each weight, by name.
        optimizer: its rates (η) and weight decays.
    """
    of = {algorithm.get_parameter(name): c for name, c in curvature.items()}
    for group in optimizer.param_groups:
        rate, decay = group["lr"], group["weight_decay"]
        for w in group["params"]:
            if w in of and w.grad is not None:
                w.grad.add_(w, alpha=decay).div_(1 + rate * of[w]).sub_(w, alpha=decay)
