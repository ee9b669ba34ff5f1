"""What a run leaves behind: results.json, metrics.jsonl, TensorBoard's events. Imports no torch until events are written."""

import hashlib
import importlib.util
import json
import math
import os
import shutil
import subprocess  # nosec B404
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metarun.claim import LOCK, OWNER, Claim, claimed
from metarun.files import WRITING, json_lines, read_results, replacing

PACKAGE = Path(__file__).resolve().parent
SUPERSEDED = "superseded"
CODE = ("metarun", "configs", "hydra_plugins")
"""What results depend on in a checkout."""
STARTS = 10**6
"""Numbers of starts in names of event files; a greater one is the second of a start."""
FINAL = ("finished", "diverged")
"""What a run may have come to that a further try would only repeat."""


class RunFolder:
    """A run directory and its files.

    Everything in it that a reader could meet half written is written beside and renamed; `metrics.jsonl` grows a whole line at a
    time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.results_path = self.path / "results.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.resolved_path = self.path / ".hydra" / "resolved.yaml"
        self.last = self.path / "checkpoints" / "last.pt"
        self.previous = self.path / "checkpoints" / "previous.pt"
        """The checkpoint before the last, for when that is damaged."""
        self.best = self.path / "checkpoints" / "best.pt"
        self.figures = self.path / "figures"
        self.stop = self.path / "stop"
        """Where there is such a file, the run stops after its next validation."""
        self.claim: Claim | None = None

    def results(self) -> dict[str, Any] | None:
        """The results written so far, or None where there are none or they are damaged.

        Raises:
            ConfigError: they are of another version.
        """
        return read_results(self.results_path)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json whole; numbers that are not finite become null."""
        with replacing(self.results_path) as file:
            file.write(json.dumps(_finite(results), indent=2, allow_nan=False).encode() + b"\n")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """For the length of the block no other process may work on this run (`metarun.claim.claimed`).

        What a killed process left half written is swept away.
        """
        with claimed(self.path) as self.claim:
            for left in (*self.path.glob(f".*{WRITING}"), *self.path.glob(f"*/.*{WRITING}")):
                left.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.claim = None

    def write_configuration(self, config: DictConfig) -> None:
        """Write the configuration that runs, interpolations resolved."""
        with replacing(self.resolved_path) as file:
            file.write(OmegaConf.to_yaml(config, resolve=True).encode())

    def configuration(self) -> DictConfig:
        """The configuration that ran; of runs before it was kept, the one composed, without default stages and a budget's cuts.

        Raises:
            OSError: there is none.
        """
        composed = self.path / ".hydra" / "config.yaml"
        return OmegaConf.load(self.resolved_path if self.resolved_path.is_file() else composed)  # type: ignore[return-value]

    def check_claim(self) -> None:
        """Before something is written: that this process may still write it (`metarun.claim.Claim.check`)."""
        if self.claim is not None:
            self.claim.check()

    def supersede(self) -> None:
        """Start over: what this run left goes to `superseded/N/`, but for what Hydra has just written."""
        kept = {SUPERSEDED, LOCK, OWNER, ".hydra", "metarun.log"}
        old = [p for p in self.path.iterdir() if p.name not in kept] if self.path.is_dir() else []
        if not old:
            return
        place = self.path / SUPERSEDED
        target = place / str(1 + sum(1 for _ in place.glob("*")))
        target.mkdir(parents=True)
        for path in sorted(
            old, key=lambda path: path != self.results_path
        ):  # a kill after it leaves the old run to be tested again
            shutil.move(path, target / path.name)


class Log:
    """Metrics by step, to `metrics.jsonl` and to TensorBoard.

    Args:
        folder: of the run.
        step: continue after this step: what was logged of later ones, before a kill, is cut off.
        lines: how many lines of `metrics.jsonl` stay, those that a checkpoint knows of; None: all up to ``step``.
        tensorboard: write TensorBoard's events.
    """

    def __init__(self, folder: RunFolder, step: int, *, tensorboard: bool, lines: int | None = None) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if folder.metrics_path.is_file():
            kept = [line for line in json_lines(folder.metrics_path) if _step_of(line) <= step][:lines]
            with replacing(folder.metrics_path) as file:
                file.writelines(json.dumps(line).encode() + b"\n" for line in kept)
        self.lines = len(kept)
        """Of `metrics.jsonl`."""
        self._file = folder.metrics_path.open("a")
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            _number_events(folder.path)
            # What an earlier start wrote for this step and later ones is dropped by a reader; this step's lines are written again.
            self._writer = SummaryWriter(str(folder.path), purge_step=step)
            for line in kept:
                if line["step"] == step:
                    self._add_scalars(step, {tag: value for tag, value in line.items() if "/" in tag})

    def scalars(self, step: int, values: Mapping[str, float], **labels: Any) -> None:
        """One line of `metrics.jsonl` with ``values`` and ``labels``, and the values as TensorBoard scalars."""
        self._file.write(json.dumps(_finite({"step": step, **labels, **values}), allow_nan=False) + "\n")
        self._file.flush()
        self.lines += 1
        if self._writer is not None:
            self._add_scalars(step, values)

    def _add_scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, math.nan if value is None else value, step)

    def picture(self, tag: str, path: Path, step: int) -> None:
        """A PNG for TensorBoard, as it is: drawing a figure once more would take longer than many a run."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(encoded_image_string=path.read_bytes(), colorspace=4)
        self._writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def embedding(self, vectors: Any, parameters: Mapping[str, Any], step: int) -> None:
        """Vectors (n, d) for TensorBoard's projector, labelled by ``parameters``, (n,) each."""
        if self._writer is not None:
            columns = [[f"{value:.4g}" for value in values] for values in parameters.values()]
            several = len(columns) > 1  # one column is plain lines without a header
            rows: Any = list(zip(*columns, strict=True)) if several else next(iter(columns), None)
            header = list(parameters) if several else None
            self._writer.add_embedding(vectors, metadata=rows, metadata_header=header, global_step=step, tag="tasks")

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Hyper-parameters and the metrics to show beside them, which are logged as scalars.

        They go into this run's own event file: `add_hparams` would open another, and log the metrics once more.
        """
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(config), dict(metrics)):
            self._writer._get_file_writer().add_summary(summary)

    def sync(self) -> int:
        """See to it that the lines so far outlast a power cut → how many they are."""
        os.fsync(self._file.fileno())
        return self.lines

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class NoLog(Log):
    """Keeps nothing: that of a process which leaves writing to another."""

    def __init__(self) -> None:
        self._writer = None

    def scalars(self, step: int, values: Mapping[str, float], **labels: Any) -> None:
        pass

    def close(self) -> None:
        pass


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested keys as `a.b`, with lists and nulls as text, which is what TensorBoard's hparams take."""
    out: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return out


def source_digest(config: Mapping[str, Any]) -> str:
    """A digest of the code that makes a run's result: metarun's own, and the files of configured classes from elsewhere."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(_own_code())
    for path in sorted(user_files(config)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _own_code() -> bytes:
    """Read once: a sweep of many short runs spends its time on them."""
    return b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))


def user_files(config: Mapping[str, Any]) -> set[Path]:
    """The files of the classes in a configuration's groups that are neither metarun's nor torch's."""
    files = set()
    for node in config.values():
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if isinstance(target, str) and target.partition(".")[0] not in ("metarun", "torch"):
            with suppress(ImportError, ValueError):  # said in one line when it is built
                spec = importlib.util.find_spec(target.rpartition(".")[0])
                if spec is not None and spec.has_location and spec.origin:
                    files.add(Path(spec.origin))
    return files


@cache
def git_commit() -> str | None:
    """The commit of metarun's checkout, "-dirty" where code or configurations differ from it; None where it is not a checkout."""
    git = shutil.which("git")
    if git is None or not (PACKAGE.parent / ".git").exists():
        return None

    def said(*command: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        whole = [git, "-C", str(PACKAGE.parent), *command]
        return subprocess.run(whole, capture_output=True, text=True, timeout=10, check=True, env=environment).stdout.strip()  # noqa: S603

    try:
        commit = said("describe", "--always", "--abbrev=12", "--exclude=*")
        changed = said("status", "--porcelain", "--untracked-files=no", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _number_events(folder: Path) -> None:
    """Number the event files of earlier starts.

    Readers take them by name, in which the second of the start comes first: a clock that was set back, or two starts in one
    second, would put a later start before an earlier one.
    """
    files = sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    names = [path.name.split(".", 4) for path in files]
    numbers = [int(parts[3]) for parts in names if len(parts) == 5 and parts[3].isdigit()]
    last = max((number for number in numbers if number < STARTS), default=0)
    for path, parts in zip(files, names, strict=True):
        if len(parts) == 5 and parts[3].isdigit() and int(parts[3]) >= STARTS:
            last += 1
            path.rename(path.with_name(".".join([*parts[:3], f"{last:010}", parts[4]])))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: Mapping[str, Any]) -> float:
    step = line.get("step")
    return step if isinstance(step, int) else math.inf
