"""Using a finished run: test its learner under other settings, or give it tasks of your own."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from numpy.typing import ArrayLike, NDArray
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun import kinds, tracking
from metarun.algo.algorithm import Algorithm
from metarun.build import build
from metarun.choices import compose
from metarun.cl.method import ContinualMethod
from metarun.config import LATER, ConfigError, check_own_keys, digest, nearest
from metarun.data import provenance
from metarun.data.images import ImageData, to_shape
from metarun.data.source import Data, Stage
from metarun.declared import check_names
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.mistakes import in_one_line
from metarun.model.network import Weights
from metarun.parts import Parts, build_data, build_learner, build_method
from metarun.report.summary import describe, figure
from metarun.results import before_training, save_scores, tested
from metarun.tracking import RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.evaluation import evaluate as scores_of
from metarun.trainer.evaluation import testing
from metarun.trainer.headline import Headline
from metarun.trainer.machine import choose_device, set_threads
from metarun.trainer.trainer import Trainer

SHAPE = ("ways", "shots", "queries")
"""Keys of a test task's shape, which other data take over from the run."""


class Learner:
    """The learner of a finished run.

    Args:
        run: the run's directory.

    Raises:
        ConfigError: the directory holds no finished run, or its weights do not fit the learner that its configuration builds.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = RunFolder(run)
        results = self.folder.results()
        if results is None or results.get("status") != "finished":
            raise ConfigError(f"{run}: expected the directory of a finished run")
        self.results = results
        config = self.folder.configuration()
        check_names(
            OmegaConf.to_container(config, resolve=True)
        )  # the run may come from elsewhere: before any of its classes is imported
        config.trainer = {**LATER["trainer"], **config.trainer}  # for runs made before these keys existed
        self.config = config
        # The first versions did not record the task, and only its data know a kind that metarun does not define.
        self.spec = _spec(results.get("task")) or build_data(config, build_method(config.cl)).spec
        last = checkpoint.load(self.folder.last)
        if last is None:
            raise ConfigError(f"{self.folder.last}: this run has no weights")
        self.last = last
        known = results.get("tested")
        self.trained_on: Mapping[str, Any] = known["train"] if known else self._training_images()
        """Digests of the training images, see `metarun.data.provenance.record`."""
        self.algorithm, self.states = restored(self, config, self.spec, partial(prepare, build_method(config.cl), []))

    def _training_images(self) -> provenance.Images:
        """The training images of a run whose results do not record them."""
        return provenance.merged(build_data(self.config, build_method(self.config.cl)).members("train"))

    def fit_predict(self, support_x: ArrayLike, support_y: ArrayLike, x: ArrayLike) -> NDArray[Any]:
        """Adapt to a support set as in a test, and predict.

        Batch norms behave as in the run's test: if they are transductive, the predictions for ``x`` depend on one another.

        Args:
            support_x: (n, *input). Images are (n, C, H, W) or grey (n, H, W), uint8 or between 0 and 1, and are converted to the
                size and channels of the run's; their contrast should match the run's images (Omniglot: bright ink on black).
            support_y: labels (n,) of any type, at least one of each class; or targets (n,) or (n, d). Classes are numbered in the
                sorted order of their labels, which matters to learners with one output per class.
            x: (m, *input), the inputs to predict.

        Returns:
            Labels (m,) of the type of ``support_y``, or values (m,) or (m, d).

        Raises:
            ConfigError: there are more classes than outputs, inputs have another shape, or numbers or predictions are not finite.
        """
        inputs, queries = self._inputs(support_x, "support_x"), self._inputs(x, "x")
        y = np.asarray(support_y)
        if len(y) != inputs.shape[1]:
            raise ConfigError(f"support_y: expected {inputs.shape[1]}, one for each row of support_x, found {len(y)}")
        if not self.spec.kind.classes:
            targets = _finite(torch.as_tensor(y, dtype=torch.float32), "support_y").reshape(1, len(y), -1)
            support = Examples(inputs, targets)
            unknown = Examples(queries, targets.new_zeros(1, queries.shape[1], targets.shape[-1]))
            values: NDArray[Any] = self._outputs(Episodes(support, unknown)).numpy()
            return values[:, 0] if y.ndim == 1 else values
        if y.dtype.kind == "f":
            _finite(torch.as_tensor(y), "support_y")
        classes, numbers = np.unique(y, return_inverse=True)
        order = np.argsort(numbers, kind="stable")  # class by class, as in the tasks of a test
        labels = torch.as_tensor(numbers[order]).unsqueeze(0)
        support = Examples(inputs[:, torch.as_tensor(order)], labels, len(classes))
        unknown = Examples(queries, labels.new_zeros(1, queries.shape[1]), len(classes))
        try:
            outputs = self._outputs(Episodes(support, unknown))
        except (IndexError, RuntimeError):  # torch's error where the head has fewer outputs than there are classes
            if len(classes) <= self.spec.outputs:
                raise
            raise ConfigError(f"support_y: {len(classes)} classes, but this learner has outputs for {self.spec.outputs}") from None
        found: NDArray[Any] = classes[outputs[:, : len(classes)].argmax(-1).numpy()]
        return found

    def _outputs(self, task: Episodes) -> torch.Tensor:
        """Logits or values (m, outputs), averaged over the states that are tested together.

        Raises:
            ConfigError: a prediction is not finite.
        """
        means, steps = [], (self.results["test"].get("steps") or {}).get("n", self.algorithm.steps)
        with testing(self.algorithm):
            for state in self.states:
                self.algorithm.load_state_dict(state)
                means.append(self.algorithm.predictions(task, steps, path=False)[-1, 0])
        found = torch.stack(means).mean(0)
        failed = int((~found.isfinite().all(-1)).sum())
        if failed:
            raise ConfigError(
                f"{failed} of {len(found)} predictions are not finite: the learner diverged on this support set;"
                " check the scale of its inputs and targets"
            )
        return found

    def _inputs(self, values: ArrayLike, name: str) -> torch.Tensor:
        """(n, …) → (1, n, *input_shape) float32."""
        array, shape = np.asarray(values), self.spec.input_shape
        x = torch.as_tensor(array).to(torch.float32) * (1 / 255 if array.dtype == np.uint8 else 1)
        if x.dim() == len(shape):  # grey images without a channel axis, or scalars
            x = x.unsqueeze(1)
        if len(shape) == 3 and x.dim() == 4 and x.shape[1] in (1, 3):
            x = to_shape(x, shape)
        if tuple(x.shape[1:]) != tuple(shape):
            raise ConfigError(f"{name}: expected (n, {', '.join(map(str, shape))}), found {array.shape}")
        return _finite(x, name).unsqueeze(0)


def _finite(values: torch.Tensor, name: str) -> torch.Tensor:
    """Return ``values``, the argument called ``name``, if all are finite."""
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ConfigError(f"{name}: expected finite numbers, found {bad} of {values.numel()} that are NaN or infinite")
    return values


def evaluate(run: str | Path, overrides: Sequence[str]) -> str:
    """Test a finished run's learner under ``overrides``, without training, and return the result as text.

    The result is stored in the run's `eval/<digest>/`; a test that was made before is read from there. ``overrides`` are keys under
    `data`, `algo` and `trainer`; `seed`, which draws other test tasks from the run's own splits, stages and permutations;
    `data=CHOICE`, other data in tasks of the run's shape, with images converted to the run's size and channels; and
    `overlap=allow`, without which test images that the run was trained on are refused.

    Raises:
        ConfigError: there is no finished run, an override does not apply to it, or it was trained on some of the test images.
    """
    learner = Learner(run)
    with in_one_line(overrides):
        config, choice = changed(learner, overrides)
        plain: Any = OmegaConf.to_container(config, resolve=True)
    folder = RunFolder(learner.folder.path / "eval" / digest(plain, keep=("seed",)))
    results = folder.results()
    if results is None:
        allowed = "overlap=allow" in overrides
        results = test(learner, config, {**learner.results, "data": choice}, folder, overlap_allowed=allowed)
        folder.write_results({**results, "overrides": list(overrides)})
    lines = [describe(results), "", f"The run itself: {figure(learner.results)}"]
    if results["drop"] is not None:
        metric = learner.spec.kind.metric
        change = (
            f"{abs(results['drop']) * metric.scale:.4g}{' points' if metric.unit == '%' else metric.unit and f' {metric.unit}'}"
        )
        how = "worse by" if results["drop"] > 0 else "better by"
        lines[-1] += f"; {how} {change}" if results["drop"] else "; the same"
    shared = (results.get("tested") or {}).get("overlap")
    if shared and shared["images"]:
        lines.append(f"Not a test on unseen classes: {provenance.Overlap(**shared)}")
    return "\n".join([*lines, "", str(folder.path)])


def changed(learner: Learner, overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """The run's configuration under ``overrides``, and the choice of data."""
    config: DictConfig = OmegaConf.create(OmegaConf.to_container(learner.config))  # type: ignore[assignment]
    config.trainer.test_tasks = learner.results["protocol"]["n_test_tasks"]  # a budget may have cut them
    choice = learner.results["data"]
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if override.key_or_group == "data":
            choice = str(override.value())
            other = compose([f"data={choice}"]).data
            with open_dict(config):
                config.data = OmegaConf.merge(
                    other, {key: config.data[key] for key in SHAPE if key in config.data and key in other}
                )
    for override in parsed:
        key = override.key_or_group
        group, _, name = key.partition(".")
        if key == "data":
            continue
        if key == "overlap":
            if override.value() != "allow":
                raise ConfigError(f"overlap={override.value()}: expected allow")
            continue
        if key != "seed" and (group not in ("data", "algo", "trainer") or not name):
            raise ConfigError(
                f"{key}: a finished run keeps its own; eval accepts data=, seed=, overlap=, and keys of data, algo and trainer"
            )
        place, _, last = key.rpartition(".")
        parent = OmegaConf.select(config, place) if place else config
        known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
        if last not in known:
            raise ConfigError(f"{key}: no such key{nearest(last, known)}")
        OmegaConf.update(config, key, override.value())
    check_own_keys(config)
    mode, before = config.algo.get("batch_norm"), learner.config.algo.get("batch_norm")
    if mode == "running" and before != mode:
        raise ConfigError(f"algo.batch_norm=running: this run was trained with {before} and has no running statistics")
    return config, choice


def test(
    learner: Learner, config: DictConfig, known: dict[str, Any], folder: RunFolder, *, overlap_allowed: bool
) -> dict[str, Any]:
    """Test the run's learner as ``config`` says, save the scores to test.npz, and return the contents of results.json.

    Raises:
        ConfigError: the learner does not fit the data, or was trained on some of the test images without ``overlap_allowed``.
    """
    trainer: Trainer = build(config.trainer, config.seed, key="trainer", kind=Trainer)
    method, device = build_method(config.cl), choose_device(trainer.device)
    # The run's seed also drew its splits, stages and permutations. They are kept; another seed draws other tasks from them.
    seed = learner.config.seed
    data = build_data(OmegaConf.merge(config, {"seed": seed}), method)  # type: ignore[arg-type]
    fit(data, learner.spec)
    if config.seed != seed:
        data.redraw(config.seed)
    stages = data.stages(device)
    tested_on = provenance.record(data, stages, trainer.test_tasks, learner.trained_on)
    check_tested(learner, config, tested_on, overlap_allowed=overlap_allowed)
    # What a continual method keeps per stage (heads, columns) applies to the run's own stages only, in the order of training.
    order = learner.last["position"]["order"]
    own = known["data"] == learner.results["data"] and len(stages) == len(order)
    if own:
        stages = [stages[number] for number in order]
    method.announced = trainer.switch is None
    outputs, alike = data.spec.outputs, learner.spec.train_outputs == learner.spec.outputs
    spec = replace(learner.spec, outputs=outputs, train_outputs=outputs if alike else learner.spec.train_outputs)
    algorithm, states = restored(learner, config, spec, partial(prepare, method, stages), device)
    if own and learner.last["method"]:
        method.load_state_dict(learner.last["method"])
    parts = Parts(
        data,
        algorithm,
        method,
        trainer,
        device,
        set_threads(trainer.threads, 0),
        stages,
        learner.results.get("budget") or {},
        config,
    )
    headline, validation, found = Headline(trainer.report_steps, algorithm), [], {}
    scores = partial(scores_of, algorithm, ensemble=states if len(states) > 1 else None)
    for number, stage in enumerate(stages):
        with method.testing(algorithm, number) if own else nullcontext():
            found[stage.name] = scores(stage.test, trainer.test_tasks)
            if headline.path:
                validation.append(scores(stage.val, trainer.val_tasks))
    look = headline.best(validation) if headline.path else headline.place
    choices = {key: known[key] for key in ("algo", "data", "cl", "model")}
    metric = spec.kind.metric
    results = before_training(choices, parts, tracking.source_digest(config))
    results |= {"tested": tested_on, "test": tested(found, metric, headline, look), "train": learner.results["train"]}
    before, after = learner.results["test"][metric.name]["mean"], results["test"][metric.name]["mean"]
    worse = None if before is None or after is None else metric.gain(before, over=after)
    folder.path.mkdir(parents=True, exist_ok=True)
    save_scores(folder, list(found), list(found.values()))
    return {**results, "of": str(learner.folder.path.name), "drop": worse}


def check_tested(learner: Learner, config: DictConfig, tested_on: dict[str, Any], *, overlap_allowed: bool) -> None:
    """Refuse test images that the run was trained on, beyond those of its own test, and a seed that changes nothing."""
    own = learner.results.get("tested") or {}
    shared, before = tested_on["overlap"], (own.get("overlap") or {}).get("images", 0)
    if shared and shared["images"] > before and not overlap_allowed:
        raise ConfigError(f"data: {provenance.Overlap(**shared)}; choose other data, or add overlap=allow")
    same_data = config.data == learner.config.data
    if same_data and config.seed != learner.config.seed and tested_on["digest"] == own.get("digest"):
        raise ConfigError(f"seed={config.seed}: these data have the same test tasks for every seed")


def fit(data: Data, spec: TaskSpec) -> None:
    """Convert the images of ``data`` to the input shape of a learner for ``spec``.

    Raises:
        ConfigError: the tasks are of another kind, or the inputs have another shape and are no images.
    """
    if data.spec.kind != spec.kind:
        raise ConfigError(f"data: the run learned {spec.kind.name}, and these tasks are {data.spec.kind.name}")
    if data.spec.input_shape != spec.input_shape:
        if not isinstance(data, ImageData):
            raise ConfigError(f"data: the run takes inputs of shape {spec.input_shape}, and these have {data.spec.input_shape}")
        data.bring(spec.input_shape)


def prepare(method: ContinualMethod, stages: list[Stage], algorithm: Algorithm, begun: int) -> None:
    """Add to the learner what a continual method adds in the first ``begun`` stages."""
    method.on_start(algorithm, stages)
    for number in range(begun):
        method.grow(algorithm, number)


def restored(
    learner: Learner,
    config: DictConfig,
    spec: TaskSpec,
    ready: Callable[[Algorithm, int], None],
    device: torch.device | None = None,
) -> tuple[Algorithm, list[Weights]]:
    """Rebuild the learner of a run with the weights that were tested.

    Args:
        learner: of the run.
        config: the run's configuration, or a changed one.
        spec: of the tasks.
        ready: called with the learner and the number of stages begun, before the weights are loaded.
        device: of the learner.

    Returns:
        The learner, and its states: several if the run tested the mean prediction of several checkpoints.

    Raises:
        ConfigError: the weights do not fit the learner.
    """
    algorithm = build_learner(config, spec)
    last = learner.last
    begun = last["position"]["started"]
    ready(algorithm.to(device), begun)
    states = [last["algorithm"]] if begun > 1 or not last["best"] else last["best"]
    try:
        algorithm.load_state_dict(states[0])
    except RuntimeError as error:
        why = " ".join(str(error).split(":", 1)[-1].split())[:160]
        raise ConfigError(
            f"{learner.folder.path}: its weights do not fit this learner; the number of outputs may differ ({why})"
        ) from None
    return algorithm, states


def _spec(told: dict[str, Any] | None) -> TaskSpec | None:
    """The task as results.json records it, where tuples are lists; None: it does not, or the kind is not one of metarun's own."""
    if told is None or told["kind"] not in kinds.KNOWN:
        return None
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return TaskSpec(**plain | {"kind": kinds.KNOWN[told["kind"]]})
