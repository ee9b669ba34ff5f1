"""What every learner is: it adapts to the support sets of T tasks at once, then predicts their queries."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from metarun.config import ConfigError, RangeError, require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import Classification, Kind, Regression
from metarun.model.network import Network, Weights
from metarun.model.norm import Norm, RunningStatistics, Statistics
from metarun.report.findings import Finding, Probes

AT_ONCE = 20 * 2**20
"""Numbers of a network's widest layer in work at once on the CPU. It bounds memory: 80 MiB for each tensor of that layer.

With fewer, all operations are called once more for each few tasks, and two threads have less to share; more gain nothing
(measured on conv4-64, 28×28, strided, 32 tasks of 80 images, two threads: 638 ms at a quarter of this, 566 ms, 588 ms at twice).
"""

BatchNormMode = Literal["transductive", "support", "running"]
"""Whose statistics normalise a query: the query batch's own, the support set's, or running ones kept in training."""


class Algorithm(nn.Module, ABC):
    """A learner of tasks. Its parameters are the slow weights, which the trainer's outer loop updates.

    A subclass defines how it adapts and predicts; training, chunks of tasks and statistics follow from that. The keyword-only
    arguments below are keys of every learner that takes ``**common``.

    Args:
        spec: of the tasks.
        batch_norm: "transductive" (support and queries each by the statistics of their own batch), "support" (queries by those of
            their support set), or "running" (in training by those of the batch, in tests by running statistics).
        task_chunk: tasks processed at once in training, which bounds memory; null: chosen for the network and the device.

    Attributes:
        kinds: the kinds of task it can learn, and those derived from them.
        adapts: whether it learns from support sets; one that does not is for classes (or a function) that all tasks share.
        steps: inner steps of a test, which is scored after each of `eval_steps`; None: it is scored only after adaptation.
        trained_steps: inner steps in training; None: training takes none.
        feedforward: whether `outputs_and_targets` is one pass through networks that takes no gradients and keeps tasks separate on
            axis 0. The gradients of all tasks then come from one backward pass (`metarun.cl.fisher`).
        draws_once: whether its random draws in training (from torch's CPU generator) apply to all tasks of an update alike.
        why_not_sharded: why the tasks of an update cannot be divided among processes, beginning with the key that is the cause;
            None: they can, because the gradient is a mean over tasks, and so are the values that buffers of floating point move
            towards.
        held: numbers that it holds for each task that it adapts to; where they are more than the task's own, they decide how many
            tasks are tested at once.
        trains: whether there is anything to train; a learner that has nothing is tested as it is.
        gradient_scale: the factor, approximately, between the gradients that `backward` gives and those of the loss. Losses and
            penalties of continual-learning methods are multiplied by it, to keep their weight relative to the learner's loss.
        progress: how much of training is done, from 0 to 1; the trainer says it before each update. A plain number, since what is
            annealed may decide what is computed at all.
    """

    kinds: ClassVar[tuple[type[Kind], ...]] = (Regression, Classification)
    adapts: ClassVar[bool] = True
    draws_once: ClassVar[bool] = False
    feedforward: ClassVar[bool] = False
    steps: int | None = None
    trained_steps: int | None = None
    why_not_sharded: str | None = None
    held: int = 0
    trains: bool = True
    gradient_scale: float = 1.0
    progress: float = 0.0
    batch_norm: str
    """A `BatchNormMode`; a subclass may have further modes."""

    def __init__(self, spec: TaskSpec, *, batch_norm: BatchNormMode = "transductive", task_chunk: int | None = None) -> None:
        super().__init__()
        require(task_chunk is None or task_chunk > 0, "task_chunk", task_chunk, "1 or more, or null")
        if not isinstance(spec.kind, self.kinds):
            learned = " and ".join(kind.name for kind in self.kinds)
            raise ConfigError(
                f"{type(self).__name__} learns {learned} alone, but data={spec.name} is {spec.kind.name};"
                " choose another algo or data"
            )
        if spec.examples and self.adapts:
            raise ConfigError(
                f"{type(self).__name__} learns from support sets, but data={spec.name} with a scenario gives single examples;"
                " choose algo=supervised, or data.scenario=null"
            )
        self.spec, self.batch_norm, self.task_chunk = spec, batch_norm, task_chunk
        self._seen: dict[RunningStatistics, list[Statistics]] = {}
        """Batch statistics of this update's passes, to be written when it ends."""

    # What a learner defines -------------------------------------------------------------------------------------------------

    @abstractmethod
    def adapt(self, support: Examples, steps: int | None = None) -> Any:
        """Learn T tasks from their support sets → a state for `predict`; ``steps`` None: as in training."""

    @abstractmethod
    def predict(self, state: Any, x: Tensor) -> Tensor:
        """``x`` (T, n, *input_shape) → logits or means (T, n, outputs)."""

    # What follows from it ---------------------------------------------------------------------------------------------------

    def outputs(self, episodes: Episodes) -> Tensor:
        """Logits or means for the queries after adaptation, (T, n, outputs); those that are not active for a task are masked."""
        return masked(self.predict(self.adapt(episodes.support), episodes.query.x), episodes)

    def outputs_and_targets(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """What training is about: outputs (T, n, outputs), and what they should be; here those for the queries.

        Continual-learning methods measure on it how much each weight matters, and hold it.
        """
        return self.outputs(episodes), episodes.query.y

    def losses(self, episodes: Episodes) -> Tensor:
        """Loss of each task, (T,): that of the queries after adaptation."""
        return self.spec.kind.losses(*self.outputs_and_targets(episodes))

    def gradients(self, episodes: Episodes) -> tuple[Tensor, Weights]:
        """The tasks' losses (T,), and the outer gradients that are not gradients of these losses, (T, …) by weight of the network.

        `backward` differentiates the losses with respect to all other parameters, if they have a graph. Override this where an
        update is not the gradient of a loss (Reptile), or is computed in another way (iMAML).
        """
        return self.losses(episodes), {}

    def backward(self, episodes: Episodes, chunk: Callable[[Episodes, int], Tensor] | None = None) -> Tensor:
        """Add the outer gradient, the mean over tasks, to the gradients of the slow weights → the tasks' losses (T,), detached.

        Where tasks have weights, the mean is weighted; the losses returned are not. ``chunk`` computes what one chunk contributes;
        None: `backward_chunk`.
        """
        losses, chunk = [], chunk or self.backward_chunk
        draws = torch.get_rng_state() if self.draws_once else None
        for part in episodes.split(self.chunk(episodes)):
            if draws is not None:  # the gradient must not depend on how many tasks are processed at once
                torch.set_rng_state(draws)
            losses.append(chunk(part, len(episodes)))
        self.write_statistics()
        return torch.cat(losses)

    def backward_chunk(self, part: Episodes, tasks: int) -> Tensor:
        """Add what a chunk of an update of ``tasks`` tasks contributes to its gradient → the chunk's losses, detached."""
        losses, given = self.gradients(part)
        self.accumulate(losses, given, part, tasks)
        return losses.detach()

    def accumulate(self, losses: Tensor, given: Weights, part: Episodes, tasks: int) -> None:
        """Add what a chunk contributes to the mean gradient of all ``tasks`` tasks of an update; see `gradients`."""
        weights = self.network.weights() if given else {}
        own = {id(weights[name]) for name in given}
        if losses.requires_grad or not given:
            others = [w for w in self.parameters() if w.requires_grad and id(w) not in own] if given else None
            (weighted(losses, part).sum() / tasks).backward(inputs=others)
        for name, gradient in given.items():
            w, mean = weights[name], weighted(gradient.detach(), part).sum(0) / tasks
            w.grad = mean if w.grad is None else w.grad + mean

    @property
    def phase(self) -> Hashable | None:
        """Updates of one phase compute the same function of the weights and the tasks, which can be compiled.

        None: the next update computes another. Override this where `progress` decides.
        """
        return 0

    def trajectory(self, support: Examples, x: Tensor, steps: int | None = None) -> Tensor:
        """Predictions after each of `eval_steps`, (eval steps, T, n, outputs); (1, T, n, outputs) for learners without steps."""
        return self.predict(self.adapt(support), x).unsqueeze(0)

    def predictions(self, episodes: Episodes, steps: int | None = None, *, path: bool = True) -> Tensor:
        """What a test scores: the queries' `trajectory`, or without ``path`` its end alone, (1, T, n, outputs).

        The queries' labels are not looked at.
        """
        if path:
            return masked(self.trajectory(episodes.support, episodes.query.x, steps), episodes)
        return masked(self.predict(self.adapt(episodes.support, steps), episodes.query.x).unsqueeze(0), episodes)

    def probe(self, episodes: Episodes) -> dict[str, Tensor]:
        """What a test measures on T tasks besides scores, by name, the task axis first; kept in test.npz. By default nothing."""
        return {}

    def findings(self, probes: Probes) -> list[Finding]:
        """What to report of the probes of all test tasks, each with its summary and its picture."""
        return []

    def eval_steps(self, steps: int) -> list[int]:
        """Those of 0 … ``steps`` inner steps after which a test is scored, including the number taken in training."""
        return sorted({*recorded_steps(steps), min(steps, self.trained_steps or 0)})

    @property
    def parts(self) -> dict[str, frozenset[str]]:
        """Names of the learner's parameters that are the "body", which embeds inputs, and the "head" on top of it."""
        body, head = ({id(w) for w in weights} for weights in (self.network.weights().values(), self.head_weights()))
        names = {name: id(w) for name, w in self.named_parameters()}
        return {
            "body": frozenset(name for name, w in names.items() if w in body - head),
            "head": frozenset(name for name, w in names.items() if w in head),
        }

    def head_weights(self) -> Iterable[Tensor]:
        """The parameters of the layer that gives the outputs of a task, here the network's; empty: there is no such layer."""
        weights = self.network.weights()
        return [weights[name] for name in self.network.parts["head"]]

    def network_pass(self, episodes: Episodes) -> None:
        """Put all examples through the network once, to count the work in it."""
        for part in (episodes.support, episodes.query):
            self.network(self.network.weights(), part.x)

    def passes(self, episodes: Episodes) -> float:
        """How many such passes an update takes on its tasks, passes backward not counted."""
        return 1.0

    def chunk(self, episodes: Episodes) -> int | None:
        """Tasks to take at once: as configured, or what suits the network on this device."""
        if self.task_chunk is not None:
            return self.task_chunk
        if self.network.widest is None or episodes.query.x.device.type != "cpu":
            return None
        examples = episodes.support.x.shape[1] + episodes.query.x.shape[1]
        return max(1, AT_ONCE // (self.network.widest * max(examples, 1)))

    # Networks and their batch norms -----------------------------------------------------------------------------------------

    network: Network
    """The network whose weights are learned; subclasses set it."""

    def embed_support(self, x: Tensor) -> tuple[Tensor, Statistics | None]:
        """What the network makes of support sets, and the statistics that their queries are normalised with (None: their own)."""
        norm = Norm(record="graph") if self.batch_norm == "support" else self.norm(query=False)
        embedded = self.network(self.network.weights(), x, norm)
        return embedded, norm.seen if self.batch_norm == "support" else None

    def embed_queries(self, x: Tensor, statistics: Statistics | None = None) -> Tensor:
        """What the network makes of queries, normalised with ``statistics`` or as the mode says."""
        norm = self.norm(query=True) if statistics is None else Norm(statistics)
        embedded = self.network(self.network.weights(), x, norm)
        self.observe(norm)
        return embedded

    def embed_pooled(self, x: Tensor) -> Tensor:
        """What the network makes of examples, support and queries alike, that are normalised together as one batch in training."""
        norm = self.norm(query=False, record=True)
        embedded = self.network(self.network.weights(), x, norm)
        self.observe(norm)
        return embedded

    def norm(self, *, query: bool, record: bool | None = None, statistics: RunningStatistics | None = None) -> Norm:
        """The batch norms of a pass: normalised by its own batch or, in a test under the mode `running`, by running statistics.

        Args:
            query: a pass over queries. Under the mode `support` these need the statistics of their support set, which this
                method does not have: use `embed_support` and `embed_queries`.
            record: in training, add what the pass sees to the running statistics; None: for queries only.
            statistics: the running statistics; None: those of the network.

        Raises:
            ConfigError: queries under the mode `support`.
        """
        if query and self.batch_norm == "support":
            raise ConfigError(
                f"algo.batch_norm=support: {type(self).__name__} normalises queries without the statistics of their support set;"
                " choose transductive or running, or write it with embed_support and embed_queries"
            )
        if self.batch_norm != "running":
            return Norm()
        if not self.training:
            return Norm((statistics or self.network.statistics).values())
        return Norm(record="values" if (query if record is None else record) else None)

    def observe(self, norm: Norm, statistics: RunningStatistics | None = None) -> None:
        """Keep what a training pass saw, for the running statistics."""
        if self.training and norm.seen:
            self.keep_seen(statistics or self.network.statistics, norm.seen)

    def keep_seen(self, statistics: RunningStatistics, seen: Statistics) -> None:
        """Keep what a training pass saw for these running statistics."""
        self._seen.setdefault(statistics, []).append(seen)

    def take_pending(self) -> Any:
        """Hand out, as nested lists and tuples, what this update's passes have left for `write_statistics`, and forget it."""
        taken = [(statistics, list(seen.items())) for statistics, several in self._seen.items() for seen in several]
        self._seen.clear()
        return taken

    def add_pending(self, pending: Any) -> None:
        """Take back a result of `take_pending`."""
        for statistics, seen in pending:
            self.keep_seen(statistics, dict(seen))

    def write_statistics(self) -> None:
        """Move the running statistics by what this update's passes saw, once an update."""
        for statistics, seen in self._seen.items():
            statistics.update(seen)
        self._seen.clear()


def weighted(values: Tensor, episodes: Episodes) -> Tensor:
    """``values`` (T, …) by the weights of their tasks, where they have some."""
    weight = episodes.context.get("weight")
    return values if weight is None else values * weight.view(-1, *[1] * (values.dim() - 1))


def one_head(spec: TaskSpec) -> int:
    """The outputs of a learner whose head is shared by training and test.

    Raises:
        RangeError: training tasks have other ways than test tasks.
    """
    if spec.train_outputs != spec.outputs:
        raise RangeError("data.train_ways", spec.train_outputs, f"data.ways ({spec.outputs}): the head has one size")
    return spec.outputs


@contextmanager
def eval_mode(algorithm: Algorithm) -> Iterator[None]:
    """Evaluation mode for the length of the block."""
    was_training = algorithm.training
    algorithm.eval()
    try:
        yield
    finally:
        algorithm.train(was_training)


def recorded_steps(steps: int) -> list[int]:
    """All of up to 10 steps; of more, 0, 1, 2, 5, 10, 20, 50, … and the last."""
    if steps <= 10:
        return list(range(steps + 1))
    some = (digit * 10**power for power in range(len(str(steps))) for digit in (1, 2, 5))
    return [0, *(step for step in some if step < steps), steps]


INACTIVE = -1e4
"""Logit of an output that is not active: its probability is 0, and so is its gradient; finite, so that differences are, too."""


def masked(logits: Tensor, episodes: Episodes) -> Tensor:
    """``logits`` (…, T, n, outputs), those masked that a task's context says are not active."""
    active = episodes.context.get("active")
    return logits if active is None else logits.masked_fill(~active.unsqueeze(1), INACTIVE)
