"""The outer loop: stage after stage, update after update, with validation, checkpoints and the test at the end."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.data.source import Stage, TaskSource
from metarun.episodes import Episodes
from metarun.ranks import ALONE, Ranks
from metarun.rng import derive
from metarun.signals import Interrupted, Signals
from metarun.tracking import Log, NoLog, RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.draws import Draws
from metarun.trainer.evaluation import evaluate, summary, testing
from metarun.trainer.feed import Feed
from metarun.trainer.guard import Guard
from metarun.trainer.headline import Headline
from metarun.trainer.online import Jumps, stages_of_rounds, stretches
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding
from metarun.trainer.state import Diverged, Outcome, Position, Pruned
from metarun.trainer.update import Step, Update

log = logging.getLogger(__name__)


class Trainer(Settings):
    """Trains a learner through stages and tests it."""

    def fit(
        self,
        algorithm: Algorithm,
        stages: list[Stage],
        method: ContinualMethod,
        folder: RunFolder,
        source: str,
        ranks: Ranks = ALONE,
    ) -> Outcome:
        """Train through ``stages`` and test, continuing where the checkpoint in ``folder`` stopped.

        Args:
            algorithm: the learner, on its device.
            stages: at least one.
            method: of continual learning.
            folder: of the run.
            source: digest of the code that runs, kept in the checkpoint.
            ranks: the processes that train it together; the first of them alone writes.

        Raises:
            ConfigError: more processes than tasks, or tasks that cannot be shared out.
            Diverged: the loss is not finite; the last good checkpoint stays.
            Interrupted: a signal asked to stop; a checkpoint has been written.
            Pruned: the run directory's file `stop` asks for it; a checkpoint has been written.
        """
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        job = _Job(self, algorithm, stages, method, folder, source, ranks)
        with Signals() as job.signals, logging_redirect_tqdm() if has_terminal() else nullcontext():
            try:
                return job.run()
            finally:
                job.log.close()


class _Job:
    """One call of `Trainer.fit`."""

    def __init__(
        self,
        trainer: Trainer,
        algorithm: Algorithm,
        stages: list[Stage],
        method: ContinualMethod,
        folder: RunFolder,
        source: str,
        ranks: Ranks,
    ) -> None:
        self.trainer, self.algorithm, self.method = trainer, algorithm, method
        self.given, self.stages = stages, list(stages)
        """The stages as the data has them, and in the order taken."""
        self.folder, self.source, self.ranks = folder, source, ranks
        self.signals = Signals()
        self.device = next(algorithm.parameters()).device
        self.iterations = trainer.iterations if algorithm.trains else 0
        self.total = self.iterations * len(stages)
        self.metric = algorithm.spec.kind.metric
        self.headline = Headline(trainer.report_steps, algorithm)
        self.sign = self.metric.sign

        if not algorithm.trains and type(method) is not ContinualMethod:
            raise ConfigError(f"cl: {type(algorithm).__name__} trains nothing, so there is nothing to keep; choose cl=none")
        self.rounds = None
        """Of an online stream: the number of each update's stage."""
        self.jumps = Jumps(trainer.detect) if trainer.detect is not None else None
        self.sharding = Sharding(algorithm, method, trainer, ranks)
        self.feed = Feed(trainer.tasks, self.sharding, stages[0].train.sample(torch.arange(1)))
        self.draws = Draws(trainer.seed, self.device)
        if trainer.switch is not None:
            method.announced = False
            self._check_online()
            self.rounds = stages_of_rounds(trainer.seed, self.total, len(stages), trainer.switch)
        method.seed = trainer.seed
        method.on_start(algorithm, self.stages)
        updates = self.total if self.rounds else self.iterations
        self.optimizer = OuterOptimizer(algorithm.parameters(), trainer, updates)
        self.position = Position(order=list(range(len(stages))))
        self.best_states: list[dict[str, Tensor]] = []
        self.online: list[Tensor] = []
        """Scores of the rounds since they were last logged."""
        self.guard = Guard(algorithm, self.optimizer.torch) if trainer.nonfinite == "skip" else None
        self.update = Update(algorithm, method, self.optimizer, trainer, self.sharding, self.guard)
        self.loss_sum = torch.zeros((), device=self.device)
        """Of the learner's own loss since it was last logged, with the weights of tasks."""
        self.part_sums: dict[str, Tensor] = {}
        """Of the loss's other parts."""
        self.loss_count = 0
        self.mark = time.perf_counter()
        self.shown: dict[str, str] = {}
        self.batches: Iterator[Episodes] = iter(())
        """The tasks of the updates to come."""
        self.steps_on_disk: list[int] = []
        self.lines: int | None = 0
        """Of metrics.jsonl that the checkpoint knows of."""
        self._restore()
        self.log = Log(folder, self.position.step, tensorboard=trainer.tensorboard, lines=self.lines) if ranks.first else NoLog()
        self.saved_at = time.monotonic()

    def run(self) -> Outcome:
        if self.rounds is not None:
            return self._run_online(self.rounds)
        for number in range(self.position.ended, len(self.stages)):
            if number == self.position.started:
                self._arrange(number)
                self._add_row()
                self._begin(number)
                self._save()
            self.method.enter(number)
            self._train_stage(number)
        return self._test()

    # The order of stages -----------------------------------------------------------------------------------------------------

    def _arrange(self, number: int) -> None:
        """Decide which stages come from place ``number`` on: at the start, or with order=active at every boundary."""
        how, order = self.trainer.order, self.position.order
        if how == "given" or (number and how != "active") or len(order) - number < 2:
            return
        coming = order[number:]
        if how == "random":
            coming = np.random.default_rng(derive(self.trainer.seed, "order")).permutation(coming).tolist()
        else:
            score = {order[place]: self._score(place) for place in range(number, len(order))}
            coming.sort(key=lambda i: score[i], reverse=how == "easy_first")
        self._take(order[:number] + coming)

    def _score(self, place: int) -> float:
        """How good the learner is at the stage at ``place``, on validation tasks; higher is better."""
        stage = self.stages[place]
        with self.method.testing(self.algorithm, place):
            scores = self._look(stage.val, self.trainer.val_tasks)
        mean = summary(scores[self.headline.best([scores])])["mean"]
        self.log.scalars(self.position.step, {f"order/{stage.name}": _number(mean)})
        return -float("inf") if mean is None else self.sign * mean

    def _take(self, order: list[int]) -> None:
        """Have the stages in this order; in place, for the method has the same list."""
        self.position.order = order
        self.stages[:] = [self.given[i] for i in order]

    # A stream without boundaries ---------------------------------------------------------------------------------------------

    def _check_online(self) -> None:
        """Refuse methods that must be told more than an online stream tells."""
        name = type(self.method).__name__
        if self.method.needs == "stages":
            raise ConfigError(f"trainer.switch: {name} must be told the stage, and nobody announces it")
        if self.method.needs == "boundaries" and self.jumps is None:
            raise ConfigError(f"trainer.switch: {name} must be told when a stage ends; trainer.detect=4 guesses it")

    def _run_online(self, rounds: list[int]) -> Outcome:
        if not self.position.started:
            self._add_row()
            self._begin(0)
            self._save()
        self.method.enter(self.position.started - 1)
        segments = stretches(rounds, self.position.step)
        self.batches = chain.from_iterable(self.feed.batches(self.stages[i].train, *of) for i, *of in segments)
        self._train("stream", 0, self.total)
        self._save()
        return self._test()

    def _score_online(self, episodes: Episodes) -> None:
        """Score the new tasks before their labels are trained on; where that has jumped, the method is told of a boundary."""
        own, share = self.sharding.own(episodes)
        with testing(self.algorithm):
            predicted = self.algorithm.predictions(own, self.headline.steps, path=False)[-1]
            score = self.algorithm.spec.kind.scores(predicted, own.query.y).mean()
        self.ranks.average([score], share)
        self.online.append(score)
        if self.jumps is None:
            return
        loss = -self.sign * float(score)
        ended = self.jumps.found(self.position.step, loss)
        if ended is not None:  # nothing is saved here, in the middle of an update
            self._log_online()  # so that the order of lines does not hang on when the last checkpoint was
            self._end(ended)
            self._begin(self.position.started)
            self.method.enter(self.position.started - 1)
            self._reseed("update")
        self.jumps.observe(episodes, loss)

    def _log_online(self) -> None:
        """A line a round: its score, and the stage that nobody was told."""
        if self.rounds is None or not self.online:
            return
        first = len(self.position.online)
        for number, score in enumerate(torch.stack(self.online).tolist(), first):
            self.log.scalars(number + 1, {f"online/{self.metric.name}": score, "online/stage": self.rounds[number]})
            self.position.online.append(score)
        self.online.clear()

    # One stage --------------------------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        if number and self.trainer.reset_optimizer:
            self.optimizer.forget()
        if number and self.rounds is None:  # a guessed boundary of an online stream is none of the schedule's
            self.optimizer.restart_schedule()
        self._reseed("start")
        self.method.enter(number)
        self._grow(number)
        self.method.on_stage_start(self.algorithm, number)
        self.optimizer.forget(map(self.algorithm.get_parameter, self.method.per_stage))  # moments of another stage's weights
        self.position.best, self.best_states = [], []
        self.position.started += 1

    def _grow(self, number: int) -> None:
        """Let the method add parameters, which the optimizer then has, too."""
        self.method.grow(self.algorithm, number)
        self.optimizer.extend(self.algorithm.parameters())

    def _train_stage(self, number: int) -> None:
        stage = self.stages[number]
        first = number * self.iterations
        self.batches = self.feed.batches(self.method.source(number), self.position.step - first, self.iterations)
        self._train(
            stage.name if len(self.stages) > 1 else "train", number * self.iterations, (number + 1) * self.iterations, stage
        )
        self._end(stage)
        self._save()

    def _train(self, name: str, start: int, end: int, stage: Stage | None = None) -> None:
        """Updates ``start`` to ``end``, validated on ``stage`` if there is one."""
        self.algorithm.train()
        self.mark = time.perf_counter()
        with self._bar(name, start, end) as bar:
            while self.position.step < end:
                self._update()
                bar.update()
                step = self.position.step
                if step % self.trainer.log_every == 0 or step == end:
                    self._log_loss(bar)
                if stage and self.trainer.validate_every and (step % self.trainer.validate_every == 0 or step == end):
                    self._validate(stage, bar)
                    if any(self.ranks.agree(self.folder.stop.exists())):
                        self._save()
                        raise Pruned(f"pruned at update {step} of {self.total}")
                late = time.monotonic() - self.saved_at >= self.trainer.checkpoint_every
                number, due = self.ranks.agree(self.signals.caught or 0, late)
                if number or due:
                    self._save()
                self._stop(number)

    def _end(self, stage: Stage) -> None:
        self._reseed("end")
        found = self.method.on_stage_end(self.algorithm, stage)
        if found:
            self.log.scalars(self.position.step, {f"stage/{name}": value for name, value in found.items()})
        self.position.ended += 1

    def _update(self) -> None:
        self._reseed("update")
        self.algorithm.progress = self.position.step / self.total
        episodes = next(self.batches)
        if self.rounds is not None:
            self._score_online(episodes)
        step = self.update(episodes)
        # Only for methods that observe updates does the host wait for whether this one was made.
        if step.finite is None or not self.method.observes or bool(step.finite):
            self.method.after_update(self.algorithm, episodes)
        self._add(step)
        self.position.step += 1

    def _add(self, step: Step) -> None:
        self.loss_sum += step.loss
        for name, part in {"extra": step.extra, "penalty": step.penalty}.items():
            if part is not None:
                self.part_sums.setdefault(name, torch.zeros_like(self.loss_sum)).add_(part)
        self.loss_count += 1

    def _reseed(self, what: str) -> None:
        self.draws.reseed(self.position.step, *(() if what == "update" else (what,)))

    def _log_loss(self, bar: "tqdm[Any]") -> None:
        """Log the mean since the last time of the loss that updates descend, and of its parts where there are several.

        `train/learner` is the tasks' loss with their weights, `train/extra` what a continual method adds to it, `train/penalty`
        its penalty. This, and no update, synchronises with the device.
        """
        step, skipped = self.position.step, self._count_skipped()
        if skipped >= max(self.loss_count, self.trainer.log_every):
            raise Diverged(f"none of the last {skipped} updates was finite, at update {step}")
        made = self.loss_count - skipped
        sums = {"learner": self.loss_sum, **self.part_sums}
        parts = {name: float(total) / made if made else float("nan") for name, total in sums.items()}
        loss = sum(parts.values())
        if made:
            self._check_finite(loss)
        self._log_online()
        self._count_time()
        speed = step * self.trainer.tasks / max(self.position.seconds, 1e-9)
        told = {"train/nonfinite": float(skipped)} if skipped else {}
        if len(parts) > 1:
            told |= {f"train/{name}": value for name, value in parts.items()}
        self.log.scalars(step, {"train/loss": loss, **told, "time/tasks_per_second": speed})
        self.loss_sum.zero_()
        self.part_sums.clear()
        self.loss_count = 0
        self.shown |= {"loss": f"{loss:.4g}", "tasks/s": f"{speed:.0f}"}
        bar.set_postfix(self.shown, refresh=False)

    def _count_time(self, *, idle: bool = False) -> None:
        """Add the time since the last call to that spent in updates, unless it was ``idle``: spent on something else."""
        now = time.perf_counter()
        self.position.seconds += 0.0 if idle else now - self.mark
        self.mark = now

    def _count_skipped(self) -> int:
        """Updates taken back since the last time."""
        if self.guard is None:
            return 0
        found = self.guard.counts.tolist()
        self.guard.counts.zero_()
        self.position.nonfinite = [a + b for a, b in zip(self.position.nonfinite, found, strict=True)]
        return int(found[0])

    def _check_finite(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at update {self.position.step}")

    def _validate(self, stage: Stage, bar: "tqdm[Any]") -> None:
        self._count_time()
        # A signal waits: the checkpoint comes after this.
        scores = self._look(stage.val, self.trainer.val_tasks, on_chunk=lambda: None)
        place = self.headline.best([scores])
        found, step = summary(scores[place]), self.position.step
        mean = found["mean"]
        after = {"inner_steps": self.headline.looks[place]} if self.headline.looks and self.headline.path else {}
        self.log.scalars(step, {f"val/{self.metric.name}": _number(mean)}, ci95=found["ci95"], **after)
        if mean is not None and self.trainer.keep_best:
            self._rank(self.sign * mean)
        self.shown[f"val {self.metric.name}"] = "not finite" if mean is None else f"{mean:.4g}"
        bar.set_postfix(self.shown, refresh=False)
        if bar.disable:
            log.info("Update %d of %d: validation %s", step, self.total, self.metric.describe(found))
        self._count_time(idle=True)

    def _rank(self, score: float) -> None:
        """Keep the present weights if they are among the best; of equals the earlier."""
        place = sum(score <= other for other, _ in self.position.best)
        if place < self.trainer.keep_best:
            state = {name: value.clone() for name, value in self.algorithm.state_dict().items()}
            self.position.best.insert(place, (score, self.position.step))
            self.best_states.insert(place, state)
            del self.position.best[self.trainer.keep_best :], self.best_states[self.trainer.keep_best :]

    @contextmanager
    def _bar(self, name: str, start: int, end: int) -> Iterator["tqdm[Any]"]:
        done = self.position.step - start
        hidden = None if has_terminal() and self.ranks.first else True  # None: shown in a terminal
        with tqdm(total=end - start, initial=done, desc=name, unit="update", disable=hidden, dynamic_ncols=True) as bar:
            yield bar

    # Tests ------------------------------------------------------------------------------------------------------------------

    def _evaluate(self, source: TaskSource, tasks: int, **how: Any) -> NDArray[np.float64]:
        """Scores at all looks, (looks, tasks)."""
        return evaluate(self.algorithm, source, tasks, **{"on_chunk": self._stop_if_asked, "ranks": self.ranks, **how})

    def _look(self, source: TaskSource, tasks: int, **how: Any) -> NDArray[np.float64]:
        """Scores at the looks that the headline is chosen among; (1, tasks) where there is nothing to choose."""
        path = self.headline.path
        return self._evaluate(source, tasks, path=path, steps=None if path else self.headline.steps, **how)

    def _each_stage(self, look: Callable[[Stage], NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """What ``look`` finds in each stage, with the learner as it is for that stage."""
        found = []
        for number, stage in enumerate(self.stages):
            with self.method.testing(self.algorithm, number):
                found.append(look(stage))
        return found

    def _add_row(self) -> None:
        """Test the learner as it is on every stage: a row of R. With one stage there is no R, and nothing to wait for."""
        if len(self.stages) == 1:
            self.position.rows.append([])
            return
        means = self._keep_row(self._each_stage(lambda stage: self._look(stage.test, self.trainer.test_tasks)))
        at = means[self.headline.place if self.headline.path else 0]
        self.log.scalars(
            self.position.step, {f"stage/{stage.name}": _number(mean) for stage, mean in zip(self.given, at, strict=True)}
        )

    def _keep_row(self, stages: list[NDArray[np.float64]]) -> list[list[float | None]]:
        """Keep a row of R for each look of the scores (looks, tasks), columns by the stages' numbers, and give it back."""
        of = dict(zip(self.position.order, stages, strict=True))
        row = [
            [summary(scores)["mean"] for scores in look] for look in zip(*(of[number] for number in range(len(of))), strict=True)
        ]
        self.position.rows.append(row)
        return row

    def _test(self) -> Outcome:
        stage, several, headline = self.stages[0], len(self.stages) > 1, self.headline
        trainer, ensemble = self.trainer, self.best_states or None
        if several:
            test = self._each_stage(lambda stage: self._evaluate(stage.test, trainer.test_tasks))
            validation = self._each_stage(lambda stage: self._look(stage.val, trainer.val_tasks))
        else:
            test = [self._evaluate(stage.test, trainer.test_tasks, ensemble=ensemble)]
            validation = [self._look(stage.val, trainer.val_tasks, ensemble=ensemble)]
            if self.best_states:  # figures and whoever uses the learner from here on see what was tested
                self.algorithm.load_state_dict(self.best_states[0])
        place = headline.best(validation)
        look = place if headline.path else headline.place
        if several:
            self._keep_row(test if headline.path else [scores[look : look + 1] for scores in test])
        rows = [[row[place][number] for number in self.position.order] for row in self.position.rows if row]
        boundaries = self.jumps.steps if self.jumps else []
        names = [stage.name for stage in self.stages]
        found = [scores[place] for scores in validation]
        return Outcome(names, test, found, rows, self.position, headline, look, self.rounds, boundaries)

    # Checkpoints ------------------------------------------------------------------------------------------------------------

    def _stop_if_asked(self) -> None:
        self._stop(*self.ranks.agree(self.signals.caught or 0))

    def _stop(self, number: int) -> None:
        """For the signal of this number; 0: there was none."""
        if number:
            raise Interrupted(number, f"stopped at update {self.position.step} of {self.total}")

    def _save(self) -> None:
        """Write the checkpoint, unless what it would hold is not finite: the last good one stays."""
        self.folder.check_claim()
        self._count_time()
        self._log_online()
        self._check_finite(float(self.loss_sum))
        if not all(bool(w.isfinite().all()) for w in self.algorithm.parameters()):
            raise Diverged(f"a weight is not finite at update {self.position.step}")
        if self.ranks.first:
            self._write_checkpoints()
        self.saved_at = time.monotonic()
        self._count_time(idle=True)

    def _write_checkpoints(self) -> None:
        if self.best_states and self.trainer.keep_best:
            steps = [step for _, step in self.position.best]
            if steps != self.steps_on_disk:
                checkpoint.save(self.folder.best, {"steps": steps, "states": self.best_states})
                self.steps_on_disk = steps
        checkpoint.save(
            self.folder.last,
            {
                "source": self.source,
                "position": asdict(self.position),
                "algorithm": self.algorithm.state_dict(),
                "best": self.best_states,
                **self.optimizer.state_dict(),
                "method": self.method.state_dict(),
                "jumps": self.jumps.state_dict() if self.jumps else None,
                "loss": (float(self.loss_sum), self.loss_count),
                "loss_parts": {name: float(total) for name, total in self.part_sums.items()},
                "nonfinite": self.guard.counts if self.guard else None,
                "lines": self.log.sync(),
            },
            self.folder.previous,
        )

    def _restore(self) -> None:
        found = self.ranks.told(checkpoint.load(self.folder.last) if self.ranks.first else None)
        if found is None:
            return
        self.lines = found.get("lines")
        self.position = Position(**found["position"])
        self._take(self.position.order)
        for number in range(self.position.started):
            self._grow(number)
        self.algorithm.load_state_dict(found["algorithm"])
        self.best_states = found["best"]
        self.optimizer.load_state_dict(found)
        self.method.load_state_dict(found["method"])
        if self.jumps:
            self.jumps.load_state_dict(found["jumps"], self.device)
        loss, self.loss_count = found["loss"]
        self.loss_sum.fill_(loss)
        self.part_sums = {name: torch.tensor(total, device=self.device) for name, total in found.get("loss_parts", {}).items()}
        if self.guard and found.get("nonfinite") is not None:
            self.guard.counts.copy_(found["nonfinite"])
        self.position.resumed_at.append(self.position.step)
        log.info("Continuing at update %d of %d", self.position.step, self.total)


def has_terminal() -> bool:
    """Whether this process has the terminal for itself: one of a sweep's several leaves it to the sweep's bar."""
    return parent_process() is None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
