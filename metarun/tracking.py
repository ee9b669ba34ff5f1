"""The files of a run: results.json, metrics.jsonl, TensorBoard events. Imports no torch until events are written."""

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
from metarun.config import flat as leaves
from metarun.files import WRITING, json_lines, read_results, replacing

PACKAGE = Path(__file__).resolve().parent
SUPERSEDED = "superseded"
CODE = ("metarun", "configs", "hydra_plugins")
"""Folders of a checkout that affect results."""
STARTS = 10**6
"""Numbers below this in the names of event files count starts; larger ones are the time of a start."""
FINAL = ("finished", "diverged")
"""Terminal statuses: rerunning would give the same outcome."""


class RunFolder:
    """A run directory and its files.

    Files are written under a temporary name and renamed, so readers never see a partial file; `metrics.jsonl` grows by whole lines.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.results_path = self.path / "results.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.resolved_path = self.path / ".hydra" / "resolved.yaml"
        self.last = self.path / "checkpoints" / "last.pt"
        self.previous = self.path / "checkpoints" / "previous.pt"
        """The checkpoint before the last, used if the last is damaged."""
        self.best = self.path / "checkpoints" / "best.pt"
        self.figures = self.path / "figures"
        self.stop = self.path / "stop"
        """If this file exists, the run stops after its next validation."""
        self.claim: Claim | None = None

    def results(self) -> dict[str, Any] | None:
        """The results written so far; None if there are none, or they are damaged.

        Raises:
            ConfigError: they have an unsupported version.
        """
        return read_results(self.results_path)

    def final_results(self) -> dict[str, Any] | None:
        """The results of a run that is finished or has diverged; None for any other.

        Raises:
            ConfigError: they are of another version.
        """
        results = self.results()
        return results if results is not None and results.get("status") in FINAL else None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json atomically; numbers that are not finite become null."""
        with replacing(self.results_path) as file:
            file.write(json.dumps(_finite(results), indent=2, allow_nan=False).encode() + b"\n")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Exclude other processes from this run within the block (`metarun.claim.claimed`).

        Partial files left by killed processes are removed.
        """
        with claimed(self.path) as self.claim:
            for left in (*self.path.glob(f".*{WRITING}"), *self.path.glob(f"*/.*{WRITING}")):
                left.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.claim = None

    def write_configuration(self, config: DictConfig) -> None:
        """Write the configuration of the run, with interpolations resolved."""
        with replacing(self.resolved_path) as file:
            file.write(OmegaConf.to_yaml(config, resolve=True).encode())

    def configuration(self) -> DictConfig:
        """The configuration of the run; for runs of early versions the composed one, without default stages and budget cuts.

        Raises:
            OSError: there is no configuration.
        """
        composed = self.path / ".hydra" / "config.yaml"
        return OmegaConf.load(self.resolved_path if self.resolved_path.is_file() else composed)  # type: ignore[return-value]

    def check_claim(self) -> None:
        """Check, before a write, that this process still owns the run (`metarun.claim.Claim.check`)."""
        if self.claim is not None:
            self.claim.check()

    def supersede(self) -> None:
        """Start over: move the files of the earlier run to `superseded/N/`, except those that Hydra has just written."""
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
    """Writes metrics by step to `metrics.jsonl` and TensorBoard.

    Args:
        folder: of the run.
        step: continue after this step; lines of later steps, logged before the run was killed, are removed.
        lines: number of lines of `metrics.jsonl` to keep, as recorded in the checkpoint; None: all up to ``step``.
        tensorboard: whether to write TensorBoard events.
    """

    def __init__(self, folder: RunFolder, step: int, *, tensorboard: bool, lines: int | None = None) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        kept: list[dict[str, Any]] = []
        if folder.metrics_path.is_file():
            kept = [line for line in json_lines(folder.metrics_path) if _step_of(line) <= step][:lines]
            with replacing(folder.metrics_path) as file:
                file.writelines(json.dumps(line).encode() + b"\n" for line in kept)
        self.lines = len(kept)
        """Number of lines in `metrics.jsonl`."""
        self._file = folder.metrics_path.open("a")
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard.writer import SummaryWriter

            _number_events(folder.path)
            # Readers drop events of earlier starts from this step on, so the lines of this step are written again.
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
        """Add a PNG file to TensorBoard as it is; drawing the figure again can take longer than a short run."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(encoded_image_string=path.read_bytes(), colorspace=4)
        self._writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def embedding(self, vectors: Any, parameters: Mapping[str, Any], step: int) -> None:
        """Add vectors (n, d) to TensorBoard's projector, labelled by ``parameters``, (n,) each."""
        if self._writer is not None:
            columns = [[f"{value:.4g}" for value in values] for values in parameters.values()]
            several = len(columns) > 1  # one column is plain lines without a header
            rows: Any = list(zip(*columns, strict=True)) if several else next(iter(columns), None)
            header = list(parameters) if several else None
            self._writer.add_embedding(vectors, metadata=rows, metadata_header=header, global_step=step, tag="tasks")

    def hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Add hyperparameters, with the names of logged scalars to show beside them.

        They are written to this run's event file; `add_hparams` would create another and log the metrics a second time.
        """
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(config), dict(metrics)):
            self._writer._get_file_writer().add_summary(summary)

    def sync(self) -> int:
        """Flush the lines written so far to disk → their number."""
        os.fsync(self._file.fileno())
        return self.lines

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class NoLog(Log):
    """A log that writes nothing, for processes other than rank 0."""

    def __init__(self) -> None:
        self._writer = None

    def scalars(self, step: int, values: Mapping[str, float], **labels: Any) -> None:
        pass

    def close(self) -> None:
        pass


def flat(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Nested keys as `a.b`, with lists and nulls as text, as required by TensorBoard's hparams."""
    return {key: value if isinstance(value, str | int | float | bool) else str(value) for key, value in leaves(config)}


def source_digest(config: Mapping[str, Any]) -> str:
    """A digest of the code that determines a run's results: metarun and the files of configured user classes."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(_own_code())
    for path in sorted(user_files(config)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _own_code() -> bytes:
    """The package's source, read once, since sweeps may consist of many short runs."""
    return b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))


def user_files(config: Mapping[str, Any]) -> set[Path]:
    """The files of classes in a configuration's groups that belong to neither metarun nor torch."""
    files = set()
    for node in config.values():
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if isinstance(target, str) and target.partition(".")[0] not in ("metarun", "torch"):
            with suppress(ImportError, ValueError):  # reported when the class is built
                spec = importlib.util.find_spec(target.rpartition(".")[0])
                if spec is not None and spec.has_location and spec.origin:
                    files.add(Path(spec.origin))
    return files


@cache
def git_commit() -> str | None:
    """The commit of metarun's checkout, with "-dirty" if code or configurations were modified; None if it is not a checkout."""
    git = shutil.which("git")
    if git is None or not (PACKAGE.parent / ".git").exists():
        return None

    command = [git, "-C", str(PACKAGE.parent), "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", *CODE]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":
        return None
    changed = any(not line.startswith("#") for line in lines)
    return f"{commit[:12]}-dirty" if changed else commit[:12]


def _number_events(folder: Path) -> None:
    """Number the event files of earlier starts.

    Readers order files by name, which begins with the time of the start in seconds; after two starts in one second, or if the
    clock was set back, a later start would come before an earlier one.
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
