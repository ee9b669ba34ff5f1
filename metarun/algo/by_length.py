"""Scores of learners that process the support set as a stream, by how much of it they have seen."""

from collections import deque
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.episodes import Episodes
from metarun.report import findings
from metarun.report.findings import Finding, Probes

State = TypeVar("State")

LENGTHS = (1, 2, 5, 10, 20, 50, 75, 100, 150, 200, 300, 400, 600)


def last(walk: Iterator[State]) -> State:
    """Where it ends."""
    return deque(walk, maxlen=1).pop()


def lengths(parts: int) -> list[int]:
    """After how many of a stream's classes or functions a test looks."""
    return [*(n for n in LENGTHS if n < parts), parts]


def by_length(algorithm: Algorithm, walk: Iterator[State], episodes: Episodes, batch: int) -> dict[str, Tensor]:
    """Score on the classes (functions) seen so far when 1, 2, 5, … of them have passed, `by_length` (T, lengths).

    Args:
        algorithm: the learner.
        walk: its state after 0, 1, … steps on the support set.
        episodes: their support and query sets class by class, as many examples of each.
        batch: support examples of a step.
    """
    parts = episodes.support.ways or algorithm.spec.parts
    if parts == 1:
        return {}
    shots, queries = episodes.support.x.shape[1] // parts, episodes.query.x.shape[1] // parts
    looks = {-(-n * shots // batch): n * queries for n in lengths(parts)}
    scores = [
        algorithm.spec.kind.scores(algorithm.predict(state, episodes.query.x[:, : looks[step]]), episodes.query.y[:, : looks[step]])
        for step, state in enumerate(walk)
        if step in looks
    ]
    return {"by_length": torch.stack(scores, 1)}


def findings_by_length(algorithm: Algorithm, probes: Probes) -> list[Finding]:
    """What a learner reports of the probe `by_length`; nothing for streams of one class or function, which have none."""
    spec = algorithm.spec
    if "by_length" not in probes:
        return []
    parts = spec.outputs if spec.kind.classes else spec.parts
    return [findings.by_length(probes["by_length"], lengths(parts), spec.kind.metric)]
