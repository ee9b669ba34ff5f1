"""The keys of `trainer` and the values they may take."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from metarun.config import require
from metarun.trainer.headline import ReportSteps

Order = Literal["given", "random", "easy_first", "hard_first", "active"]
"""Of stages. easy_first, hard_first: sorted by the untrained learner's score on their validation tasks, after its own adaptation.
active: at every boundary the stage with the worst validation score comes next."""


@dataclass
class Settings:
    """How a learner is trained and tested.

    Attributes:
        seed: of the run.
        iterations: outer updates of each stage.
        tasks: tasks per update (the meta-batch).
        optimizer: of the outer loop: a `_target_` with its arguments.
        scheduler: of its learning rate, stepped after every update and restarted in each stage: "linear" or "cosine" decays to 0
            over the updates of a stage (of an online stream: over all updates); or a `_target_` with its arguments; null: constant.
        clip: largest norm of the outer gradient; null: not clipped.
        clip_value: largest absolute value of each component of the outer gradient, applied before ``clip``; null: not clipped.
        validate_every: updates between validations; null: none.
        val_tasks, test_tasks: tasks of a validation and of the test.
        paper_tasks: also report the test on the first so many tasks, the number a paper uses; null: no.
        keep_best: test the weights that were best on validation, averaging the predictions of this many; 0: the last weights. With
            several stages the last weights are tested.
        checkpoint_every: seconds between checkpoints.
        report_steps: inner steps behind the test score, R and the choice of weights, see `Headline`.
        log_every: updates between logged losses, and between checks that they are finite.
        device: auto, cpu, cuda, cuda:1, mps.
        threads: of the CPU; null: chosen by the size of the work.
        nonfinite: what a loss or gradient that is not finite does: "stop" ends the run as diverged and keeps the last good
            checkpoint; "skip" reverts the update, and ends the run if none in `log_every` updates was finite.
        deterministic: the same bytes from run to run on one machine, at the cost of some speed; refuses operations that cannot.
        precision: "float32"; "tf32": a GPU's matrix products in TensorFloat-32, as torch's convolutions are anyway; or "bfloat16"
            by autocast.
        compile: "on": compile the learner's part of an update, inner and outer gradients together, see `metarun.trainer.compiled`;
            what cannot be compiled is computed eagerly, and said so. Weights differ from those of "off" by rounding.
        reset_optimizer: start each stage with a new optimizer state. The state of weights of which each stage has its own
            (cl=heads) is dropped in any case.
        order: of the stages, see `Order`.
        switch: probability that the stage changes before an update, unannounced: an online stream of as many updates as all stages
            have, each scored on its new tasks before it is made, without validation; null: stage after stage.
        detect: of an online stream: a loss this many standard deviations above its running mean counts as a boundary, and the
            continual method is notified; null: it is never notified.
        tensorboard, figures: write TensorBoard's events, and PNG figures.

    Raises:
        RangeError: a value is out of range, or two keys exclude each other.
    """

    seed: int
    _: KW_ONLY
    iterations: int
    tasks: int
    optimizer: dict[str, Any]
    scheduler: Literal["linear", "cosine"] | dict[str, Any] | None = None
    clip: float | None = None
    clip_value: float | None = None
    validate_every: int | None = 1000
    val_tasks: int = 200
    test_tasks: int = 1000
    paper_tasks: int | None = None
    keep_best: int = 1
    report_steps: ReportSteps = "auto"
    checkpoint_every: float = 30.0
    log_every: int = 100
    device: str = "auto"
    threads: int | None = None
    nonfinite: Literal["stop", "skip"] = "stop"
    deterministic: bool = False
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: Literal["on", "off"] = "off"
    reset_optimizer: bool = False
    order: Order = "given"
    switch: float | None = None
    detect: float | None = None
    tensorboard: bool = True
    figures: bool = True

    def __post_init__(self) -> None:
        for key in ("tasks", "val_tasks", "test_tasks", "log_every"):
            require(getattr(self, key) > 0, key, getattr(self, key), "1 or more")
        for key in ("validate_every", "paper_tasks", "threads"):
            number = getattr(self, key)
            require(number is None or number > 0, key, number, "1 or more, or null")
        require(self.iterations >= 0, "iterations", self.iterations, "0 or more")
        require(self.keep_best >= 0, "keep_best", self.keep_best, "0 or more")
        for key in ("clip", "clip_value"):
            limit = getattr(self, key)
            require(limit is None or limit > 0, key, limit, "a number above 0, or null")
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "0 seconds or more")
        switch, detect, order = self.switch, self.detect, self.order
        require(switch is None or 0 < switch < 1, "switch", switch, "a number between 0 and 1, or null")
        require(detect is None or detect > 0, "detect", detect, "a number above 0, or null")
        require(detect is None or switch is not None, "detect", detect, "null where trainer.switch is")
        require(switch is None or order == "given", "order", order, "given where stages change by trainer.switch")
