"""The jobs of a sweep: status and remaining time, read from the run directories, so that any launcher works."""

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metarun.claim import held
from metarun.report.summary import figure
from metarun.signals import stopping
from metarun.tracking import FINAL, RunFolder

EVERY = 0.5
"""Seconds between two reads of the run directories."""


class SweepFailed(RuntimeError):
    """Some of a sweep's jobs failed."""


class Job:
    """One run of a sweep: its overrides and its run directory.

    Args:
        overrides: its own overrides, as `KEY=VALUE`.
        path: its run directory.
        source: digest of the present code.
        config: its composed configuration.
        anew: whether it starts over, with `restart=true`.
    """

    def __init__(self, overrides: Sequence[str], path: Path, source: str, config: Any = None, *, anew: bool = False) -> None:
        self.overrides, self.folder, self.source, self.config = tuple(overrides), RunFolder(path), source, config
        earlier = None if anew else self.folder.final_results()
        self._stamps = self._look()
        self.skipped = earlier is not None
        self._known = None if earlier is None else str(earlier["status"])

    @property
    def status(self) -> str:
        """waiting, running, or the status in results.json: finished, diverged, failed, interrupted, pruned."""
        if self._known is not None:
            return self._known
        written, begun = (now != before for now, before in zip(self._look(), self._stamps, strict=True))
        if written:
            status = (self.folder.results() or {}).get("status", "failed")
            # A job that was stopped may resume, even in this sweep: a cluster requeues it.
            self._known = status if status in (*FINAL, "failed") else None
            return str(status)
        return "running" if begun else "waiting"

    def give_up(self) -> None:
        """Settle the status once no process runs the job any more: a running job was stopped, or died without a message."""
        if self.status == "running":
            self._known = "interrupted" if stopping else "failed"

    def outcome(self) -> str:
        """Its status in words: `finished`, `skipped: finished`, `finished, resumed at update 300`, `failed: …`."""
        results = self.folder.results() or {}
        if self.skipped:
            origin = "" if results["environment"]["source"] == self.source else " by other code; restart=true runs it again"
            return f"skipped: {self.status}{origin}"
        if self.status == "failed":
            return f"failed: {self.why()}"
        resumed = (results.get("train") or {}).get("resumed_at") if self.status in FINAL else None
        return f"{self.status}, resumed at update {resumed[-1]}" if resumed else self.status

    def why(self) -> str:
        """Why it failed, in one line."""
        stopped = (self.folder.results() or {}).get("stopped")
        if stopped is None:
            stopped = "another process is at work on this run" if held(self.folder.path) else "it ended without a message"
        return " ".join(str(stopped).split())

    def score(self) -> str:
        """Its test score with the interval, if it has finished."""
        results = self.folder.results() or {}
        return figure(results) if self.status == "finished" else ""

    def _look(self) -> tuple[int | None, int | None]:
        """When the results were written and when the run started, by the clock of the file system."""
        paths = (self.folder.results_path, self.folder.path / ".hydra" / "overrides.yaml")
        return tuple(path.stat().st_mtime_ns if path.exists() else None for path in paths)  # type: ignore[return-value]


class Watch:
    """Reports the progress of ``jobs`` within a `with` block: a bar in a terminal, elsewhere a line whenever a job ends.

    Args:
        jobs: the jobs of the sweep.
        on_look: called every half second.
        quiet: report nothing.
    """

    def __init__(self, jobs: Sequence[Job], on_look: Callable[[], object] = lambda: None, *, quiet: bool = False) -> None:
        self.jobs, self.on_look, self.quiet = jobs, on_look, quiet
        self._over = threading.Event()
        self._began = time.monotonic()
        self._skipped = sum(job.skipped for job in jobs)
        self._reported = self._skipped
        self._bar: tqdm[Any] = tqdm(total=len(jobs), initial=self._skipped, desc="sweep", unit="job", disable=quiet or None)
        self._thread = threading.Thread(target=self._follow, name="sweep", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for job in self.jobs:
            job.give_up()
        self.on_look()
        self._report()
        self._bar.close()

    def _follow(self) -> None:
        while not self._over.wait(EVERY):
            self.on_look()
            self._report()

    def _report(self) -> None:
        counted = Counter(job.status for job in self.jobs)
        failed = counted["failed"] + counted["diverged"]
        ended = counted["finished"] + counted["pruned"] + failed
        if not self._bar.disable:
            self._bar.n = ended
            self._bar.set_postfix_str(f"{counted['running']} running, {failed} failed")
        elif ended > self._reported and not self.quiet:
            line = f"sweep: {ended} of {len(self.jobs)} done, {counted['running']} running, {failed} failed"
            if ended < len(self.jobs):
                left = (time.monotonic() - self._began) / (ended - self._skipped) * (len(self.jobs) - ended)
                line += f", {tqdm.format_interval(left)} left"
            print(line, file=sys.stderr, flush=True)
        self._reported = ended


def summary(jobs: Sequence[Job]) -> str:
    """A table with one line per job: its distinguishing overrides, status, test score and directory."""
    own = _own_overrides(jobs)
    rows = [(overrides, job.outcome(), job.score(), str(job.folder.path)) for overrides, job in zip(own, jobs, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counted = Counter("skipped" if job.skipped else job.status for job in jobs)
    return "\n".join([*lines, "", ", ".join(f"{count} {status}" for status, count in counted.most_common())])


def _own_overrides(jobs: Sequence[Job]) -> list[str]:
    """The overrides that distinguish the jobs: of keys with several values and, if need be, of keys that some jobs lack."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        for override in job.overrides:
            by_key[override.partition("=")[0]].append(override)
    varied = {key for key, overrides in by_key.items() if len(set(overrides)) > 1}
    partial = {key for key, overrides in by_key.items() if len(overrides) < len(jobs)}
    own: list[str] = []
    for keys in (varied, varied | partial, set(by_key)):
        own = [" ".join(override for override in job.overrides if override.partition("=")[0] in keys) for job in jobs]
        if all(own) and len(set(own)) == len(jobs):
            break
    return own


def check(jobs: Iterable[Job]) -> None:
    """Raise `SweepFailed`, with the first reason, if a job failed."""
    jobs = list(jobs)
    bad = [job for job in jobs if job.status in ("failed", "diverged")]
    if bad:
        log = bad[0].folder.path / "metarun.log"
        raise SweepFailed(f"{len(bad)} of {len(jobs)} jobs failed; the first: {bad[0].why()} ({log})")
