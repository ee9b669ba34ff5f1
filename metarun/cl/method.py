"""The hooks of a continual-learning method around the outer loop. The base class does nothing, which is `cl=none`."""

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
    """The hooks of a method; override only the ones you need.

    A method acts on slow weights in the outer loop. An update calls `mix`, the learner's backward pass, `loss`, `gradient`,
    `curvature`, `project`, the optimizer and `after_update`, in this order; `loss` and `after_update` receive the tasks of the
    stage as they were before `mix`. Before `grow`, before the end of a stage and before every update, torch's generator is seeded
    from the run's seed and the step, so a resumed run draws the same random numbers.

    The trainer relies on declarations, attributes that are False by default. A class that defines one of these hooks must declare
    the corresponding attribute; `check_declared` enforces it.

    Attributes:
        sees_tasks: whether `mix`, `loss` or `after_update` uses the tasks of an update. If so, each of several processes samples
            all tasks instead of only its own shard.
        observes: whether `after_update` must be called only for updates that were kept. With trainer.nonfinite=skip this requires
            a synchronisation with the device in every update.
        gives_tasks: whether `source` replaces the stage's own source of tasks.
        stage: index of the stage in training (0, 1, …), set by `enter`.
        needs: information required about the stream: nothing, the boundaries of stages (which may be detected), or the stages.
        announced: whether the stream announces stage boundaries; set by the trainer before `on_start`.
        seed: of the run; set by the trainer before `on_start`.
        per_stage: names of the learner's weights that are separate for each stage; set by `on_start`. The trainer resets the
            optimizer's moments of these weights when a stage starts, and penalties leave them out.
        stages: all stages in training order; with trainer.order=active, the order of future stages may still change.
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
        """Why this method cannot be combined with ``other``, as the second half of a message; None: it can."""
        return None

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        """Called once, before any update or `load_state_dict`; the learner has its initial weights, and no optimizer exists yet."""
        self.stages, self.device = stages, next(algorithm.parameters()).device

    def grow(self, algorithm: Algorithm, stage: int) -> None:
        """Add the parameters of stage ``stage`` to the learner.

        A resumed run calls this for each stage that has started, before it loads weights.
        """

    def enter(self, stage: int) -> None:
        """Called when stage ``stage`` starts or is resumed."""
        self.stage = stage

    def source(self, stage: int) -> TaskSource:
        """The source of the training tasks of stage ``stage``."""
        return self.stages[stage].train

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        """Called before the first update of stage ``stage``."""

    def mix(self, episodes: Episodes) -> Episodes:
        """The tasks to train on, with stored tasks mixed in."""
        return episodes

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        """A term to add to the outer loss, (), or None."""
        return None

    def penalty(self, algorithm: Algorithm) -> Tensor | None:
        """The value (), for the log, of the penalty whose gradient `gradient` adds; None: no penalty."""
        return None

    def gradient(self, algorithm: Algorithm) -> None:
        """Add the gradient of a penalty to the gradients of the slow weights, or otherwise modify them."""

    def curvature(self, algorithm: Algorithm) -> Weights:
        """The second derivatives of the quadratic penalty whose gradient `gradient` adds, by weight name.

        Under SGD the trainer uses them for an implicit step on the penalty, see `implicit`.
        """
        return {}

    def project(self, algorithm: Algorithm) -> None:
        """Project the gradients of the slow weights, which include those of all penalties."""

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        """Called after the optimizer's step."""

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float] | None:
        """Called after the last update of a stage, to consolidate it → values to log, by name."""
        return None

    @contextmanager
    def testing(self, algorithm: Algorithm, stage: int) -> Iterator[None]:
        """Within the block, the learner is as it should be tested on stage ``stage``."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` resumes with bit-identical results."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the output of `state_dict`, with tensors on the CPU."""


DECLARED = {"mix": "sees_tasks", "loss": "sees_tasks", "after_update": "observes", "source": "gives_tasks"}
"""The attribute to declare with each hook; `after_update` also receives the tasks and thus needs `sees_tasks` as well."""


def check_declared(method: ContinualMethod) -> None:
    """Check that a method declares the attributes for the hooks that it defines.

    Raises:
        ConfigError: an attribute is not True and is not set by the class that defines the hook or a class derived from it.
    """
    for hook, attribute in [*DECLARED.items(), ("after_update", "sees_tasks")]:
        classes = type(method).__mro__
        defines = next(place for place, cls in enumerate(classes) if hook in vars(cls))
        declares = next(place for place, cls in enumerate(classes) if attribute in vars(cls))
        if classes[defines] is not ContinualMethod and declares > defines and not getattr(method, attribute):
            name, line = type(method).__name__, f"{attribute} = True"
            raise ConfigError(f"cl: {name} defines {hook} but does not declare {attribute}; add `{line}` (or False) to the class")


def reweight(episodes: Episodes, weight: Tensor | float) -> Episodes:
    """The same tasks, with their loss weights multiplied by ``weight``, (T,) or ()."""
    present = episodes.context.get("weight", episodes.query.x.new_ones(len(episodes)))
    return Episodes(episodes.support, episodes.query, episodes.context | {"weight": present * weight})


def unmasked(episodes: Episodes) -> Episodes:
    """The same tasks with all outputs active, to compute the logits of all stages."""
    context = {name: value for name, value in episodes.context.items() if name != "active"}
    return Episodes(episodes.support, episodes.query, context)


@torch.no_grad()
def implicit(algorithm: Algorithm, curvature: Weights, optimizer: torch.optim.SGD) -> None:
    """Make SGD's step implicit in a quadratic penalty whose gradient has already been added.

    An explicit step of rate η on a loss with gradient g and a quadratic ½ c (w − a)², w' = w − η (g + c (w − a)), diverges where
    η c > 2. The implicit (proximal) step takes the quadratic's gradient at w' and is stable for every c. It solves
    w' = w − η (g + c (w' − a)), so w' = (w + η c a − η g) / (1 + η c): the explicit step with its gradient divided by 1 + η c.
    Both steps have the same fixed points.

    Momentum then averages the divided gradients and remains stable. Weight decay is part of g; since SGD adds it itself, it is
    added before the division and subtracted afterwards.

    Args:
        algorithm: the learner, whose gradients are modified.
        curvature: c of each weight, by name.
        optimizer: with the learning rates η and weight decays.
    """
    curvature_of = {algorithm.get_parameter(name): c for name, c in curvature.items()}
    for group in optimizer.param_groups:
        rate, decay = group["lr"], group["weight_decay"]
        for w in group["params"]:
            if w in curvature_of and w.grad is not None:
                w.grad.add_(w, alpha=decay).div_(1 + rate * curvature_of[w]).sub_(w, alpha=decay)
