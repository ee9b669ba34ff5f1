"""Many runs: what has become of each and how long the rest takes, read from the run directories, so that any launcher will do."""

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
"""Seconds between looks at the run directories."""


class SweepFailed(RuntimeError):
    """Some of a sweep's jobs did not come to their end."""


class Job:
    """One run of a sweep: its overrides and its run directory.

    Args:
        overrides: of the command line, as `KEY=VALUE`.
        path: of the run directory.
        source: digest of the code that would make its result now.
        config: composed.
        anew: what lies there already will be superseded.
    """

    def __init__(self, overrides: Sequence[str], path: Path, source: str, config: Any = None, *, anew: bool = False) -> None:
        self.overrides, self.folder, self.source, self.config = tuple(overrides), RunFolder(path), source, config
        found = self.folder.results() or {}
        self._stamps = self._look()
        self.skipped = not anew and found.get("status") in FINAL
        self._known = str(found["status"]) if self.skipped else None

    @property
    def status(self) -> str:
        """waiting, running, or the status in results.json: finished, diverged, failed, interrupted, pruned."""
        if self._known is not None:
            return self._known
        written, begun = (now != before for now, before in zip(self._look(), self._stamps, strict=True))
        if written:
            status = (self.folder.results() or {}).get("status", "failed")
            # What stopped may go on, in this sweep too: a cluster puts a job back into its queue.
            self._known = status if status in (*FINAL, "failed") else None
            return str(status)
        return "running" if begun else "waiting"

    def give_up(self) -> None:
        """Nobody works on it any more: one that was running has been lost without a word, or was stopped before its training."""
        if self.status == "running":
            self._known = "interrupted" if stopping else "failed"

    def said(self) -> str:
        """What became of it, for people: `finished`, `skipped`, `resumed at 300, finished`, `failed: …`."""
        results = self.folder.results() or {}
        if self.skipped:
            made = "" if results["environment"]["source"] == self.source else " by other code; restart=true makes it again"
            return f"skipped: {self.status}{made}"
        if self.status == "failed":
            return f"failed: {self.why()}"
        resumed = (results.get("train") or {}).get("resumed_at") if self.status in FINAL else None
        return f"{self.status}, resumed at update {resumed[-1]}" if resumed else self.status

    def why(self) -> str:
        """What ended it, in one line."""
        stopped = (self.folder.results() or {}).get("stopped")
        if stopped is None:
            stopped = "another process is at work on this run" if held(self.folder.path) else "it ended without a word"
        return " ".join(str(stopped).split())

    def score(self) -> str:
        """Its test figure with the interval, where it has one."""
        results = self.folder.results() or {}
        return figure(results) if self.status == "finished" else ""

    def _look(self) -> tuple[int | None, int | None]:
        """When the results were written and when the run was begun, by the clock of the file system."""
        paths = (self.folder.results_path, self.folder.path / ".hydra" / "overrides.yaml")
        return tuple(path.stat().st_mtime_ns if path.exists() else None for path in paths)  # type: ignore[return-value]


class Watch:
    """While entered, tells how far ``jobs`` are: a bar in a terminal, elsewhere a line whenever a job ends.

    Args:
        jobs: of the sweep.
        on_look: called at each look, every half second.
        quiet: tell nothing.
    """

    def __init__(self, jobs: Sequence[Job], on_look: Callable[[], object] = lambda: None, *, quiet: bool = False) -> None:
        self.jobs, self.on_look, self.quiet = jobs, on_look, quiet
        self._over = threading.Event()
        self._began = time.monotonic()
        self._skipped = sum(job.skipped for job in jobs)
        self._told = self._skipped
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
        self._tell()
        self._bar.close()

    def _follow(self) -> None:
        while not self._over.wait(EVERY):
            self.on_look()
            self._tell()

    def _tell(self) -> None:
        counted = Counter(job.status for job in self.jobs)
        failed = counted["failed"] + counted["diverged"]
        ended = counted["finished"] + counted["pruned"] + failed
        if not self._bar.disable:
            self._bar.n = ended
            self._bar.set_postfix_str(f"{counted['running']} running, {failed} failed")
        elif ended > self._told and not self.quiet:
            line = f"sweep: {ended} of {len(self.jobs)} done, {counted['running']} running, {failed} failed"
            if ended < len(self.jobs):
                left = (time.monotonic() - self._began) / (ended - self._skipped) * (len(self.jobs) - ended)
                line += f", {tqdm.format_interval(left)} left"
            print(line, file=sys.stderr, flush=True)
        self._told = ended


def summary(jobs: Sequence[Job]) -> str:
    """A line a job: what tells it from the others, what became of it, its test figure, its folder."""
    own = _own_overrides(jobs)
    rows = [(what, job.said(), job.score(), str(job.folder.path)) for what, job in zip(own, jobs, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counted = Counter("skipped" if job.skipped else job.status for job in jobs)
    return "\n".join([*lines, "", ", ".join(f"{count} {status}" for status, count in counted.most_common())])


def _own_overrides(jobs: Sequence[Job]) -> list[str]:
    """What tells the jobs apart: overrides of keys that have several values, and if that is not enough, that not all have."""
    said: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        for override in job.overrides:
            said[override.partition("=")[0]].append(override)
    several = {key for key, overrides in said.items() if len(set(overrides)) > 1}
    own: list[str] = []
    for told in (several, {key for key, overrides in said.items() if key in several or len(overrides) < len(jobs)}, set(said)):
        own = [" ".join(override for override in job.overrides if override.partition("=")[0] in told) for job in jobs]
        if all(own) and len(set(own)) == len(jobs):
            break
    return own


def check(jobs: Iterable[Job]) -> None:
    """Raise `SweepFailed`, with the first reason, where a job did not come to its end."""
    jobs = list(jobs)
    bad = [job for job in jobs if job.status in ("failed", "diverged")]
    if bad:
        log = bad[0].folder.path / "metarun.log"
        raise SweepFailed(f"{len(bad)} of {len(jobs)} jobs failed; the first: {bad[0].why()} ({log})")
