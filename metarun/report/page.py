"""A page that compares runs: one HTML file that needs no network. Imports no torch."""

import base64
import html
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarun.files import replacing
from metarun.metric import Metric
from metarun.report import figures
from metarun.report.runs import Run
from metarun.report.scores import mean_of, score
from metarun.report.statistics import Paired, holm, paired, t_quantile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = NDArray[np.float64]

CURVES, MATRICES = 12, 20
"""Methods in a picture at most; more of them cannot be told apart."""
UPDATES = "trainer.iterations"
MERIT = {"test": "test", "bwt": "BWT", "forgetting": "forgetting"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A page of pictures and tables: whatever a run says of itself, a browser runs and fetches nothing for it."""

STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 90rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th { border-bottom: 1px solid #888; } code { font-size: .95em; } img { max-width: 100%; height: auto; } p { max-width: 48rem; }
"""


@dataclass
class Method:
    """Runs of one configuration, one of each seed."""

    name: str
    runs: list[Run]

    @property
    def metric(self) -> Metric:
        return self.runs[0].metric

    def tested_on(self) -> set[str]:
        """Digests of the test tasks of its runs, of those that record them."""
        return {run.tested[0] for run in self.runs if run.tested}

    def scores_by_tasks(self) -> dict[str, Numbers] | None:
        """Task scores (tasks,) by the digest of the test tasks: the mean over the runs that were tested on the same.

        None where one of them has no scores, or one that is not finite.
        """
        found: dict[str, list[Numbers]] = defaultdict(list)
        for run in self.runs:
            if run.tested is not None:
                if run.task_scores is None:
                    return None
                found[run.tested[0]].append(run.task_scores)
        return {digest: np.mean(scores, 0) for digest, scores in found.items()}


class Curve(NamedTuple):
    """A validation score over seeds at ``x``, with its 95 % interval (0 for one seed)."""

    name: str
    x: Numbers
    mean: Numbers
    ci95: Numbers


def methods(runs: Sequence[Run]) -> list[Method]:
    """Finished runs by configuration.

    A name is the algorithm, the data if there are several, the overrides that not all commands of that algorithm and data have, and
    always what `_protocol` gives.
    """
    finished = sorted((run for run in runs if run.finished), key=lambda run: str(run.path))
    named = [key for key in ("algo", "data") if len({run.results[key] for run in finished}) > 1] or ["algo"]
    trained: dict[str, set[int]] = defaultdict(set)
    alike: dict[tuple[str, ...], list[tuple[Run, list[str]]]] = defaultdict(list)
    for run in finished:
        trained[run.results["data"]].add(run.updates)
        alike[tuple(str(run.results[key]) for key in named)].append((run, run.changes(("algo", "data", UPDATES))))
    groups: dict[str, dict[int, Run]] = defaultdict(dict)
    for chosen, members in alike.items():
        common = set.intersection(*(set(changes) for _, changes in members))
        for run, changes in members:
            pairs = (change.partition("=") for change in changes if change not in common)
            own = (f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs)
            groups[" ".join([*chosen, *own, *_protocol(run, trained[run.results["data"]])])][run.seed] = run
    return [Method(name, [found[seed] for seed in sorted(found)]) for name, found in sorted(groups.items())]


def _protocol(run: Run, trained: set[int]) -> Iterator[str]:
    """The paper's row, a budget other than the full one, and the updates made where the command sets them or runs differ in them.

    ``trained``: the numbers of updates of all runs on its data; 0, of what is not trained, is no difference.
    """
    if "paper" in run.said:
        yield f"paper={run.said['paper']}"
    if run.budget != "full":
        yield f"budget={run.budget}"
    if run.updates and (UPDATES in run.said or len(trained - {0}) > 1):
        yield f"updates={run.updates}"


def page(runs: Sequence[Run]) -> str:
    """The page as text."""
    found = methods(runs)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">',
        f"<title>metarun: {len(runs)} runs</title><style>{STYLE}</style>",
        f"<h1>{len(runs)} runs, {len(found)} methods</h1>",
        *_results(found),
        *_unfinished(runs),
        *_tests(found),
    ]
    for metric in dict.fromkeys(method.metric for method in found):
        of = [method for method in found if method.metric == metric]
        parts += _curves(of, metric)
    parts += _matrices(found)
    return "\n".join(parts) + "\n"


def save(runs: Sequence[Run], path: Path) -> Path:
    """Write the page to ``path``."""
    with replacing(path) as file:
        file.write(page(runs).encode())
    return path


# Sections --------------------------------------------------------------------------------------------------------------------


def _results(found: Sequence[Method]) -> Iterator[str]:
    heads = ["method", *MERIT.values(), "over tasks", "seeds", "test tasks", "batch norm", "updates", "seconds", "device", "commit"]
    lines = []
    for method in found:
        results = [run.results for run in method.runs]
        digits = method.metric.digits
        merit = [mean_of([score(run, key)[0] for run in method.runs], digits) for key in MERIT]
        within = [score(run, "test")[1] for run in method.runs]
        spread = [ci for ci in within if ci is not None]
        lines.append(
            [
                f"<code>{html.escape(method.name)}</code>",
                *(cell if isinstance(cell, str) else cell.text() for cell in merit),
                f"± {np.mean(spread):.{digits}f}" if spread else "",
                str(len(method.runs)),
                f"{method.runs[0].test['n_tasks']:,}",
                html.escape(str(results[0]["protocol"]["batch_norm"] or "")),
                f"{method.runs[0].updates:,}",
                f"{np.mean([found['train']['seconds'] for found in results]):.0f}",
                html.escape(", ".join(sorted({found["environment"]["device"] for found in results}))),
                html.escape(
                    ", ".join(sorted({found["environment"]["git"] for found in results if found["environment"].get("git")}))
                ),
            ]
        )
    yield "<h2>Results</h2><p>Accuracies in per cent, else mean squared errors; of a stream the mean over its stages at the end."
    yield "Mean over seeds with its 95 % interval (Student's t); over tasks: that over test tasks within a seed.</p>"
    yield _table(heads, lines)


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    lines = [
        [
            f"<code>{html.escape(str(run.path))}</code>",
            html.escape(str(run.status)),
            html.escape(str(run.results.get("stopped", ""))[:200]),
        ]
        for run in runs
        if not run.finished
    ]
    if lines:
        yield "<h2>Runs without a result</h2>"
        yield _table(["run", "status", "why"], lines)


def _tests(found: Sequence[Method]) -> Iterator[str]:
    """Each method against the best on the same test tasks."""
    tests = [
        (best, other, test)
        for best, *others in (_ranked(group) for group in _tested_alike(found))
        for other in others
        if (test := compare(best, other)) is not None
    ]
    old = [method for method in found if any(run.tested is None for run in method.runs)]
    if not tests and not (old and len(found) > 1):
        return
    yield "<h2>Paired tests</h2>"
    if tests:
        yield "<p>The best method against each other one that was tested on the same tasks: the mean of the differences task by"
        yield f"task, its 95 % interval, and a two-sided paired t test. {_corrected(len(tests))} The best method was chosen on"
        yield "these very tasks, which flatters it. The tests compare these trained models, not retrainings of them: how much"
        yield "another training would differ is in the interval over seeds above.</p>"
        yield _table(["best", "other", "difference", "t", "df", "p", "p (Holm)", "runs"], _lines(tests))
    if old:
        yield "<p>Runs of these methods were made by an older version, which did not record the test tasks, and are left out of"
        yield f"paired tests: {_names(old)}. <code>metarun eval RUN</code> tests such a run again and records them.</p>"


def _lines(tests: Sequence[tuple[Method, Method, Paired]]) -> list[list[str]]:
    lines = []
    for (best, other, test), corrected in zip(tests, holm([test.p for *_, test in tests]), strict=True):
        scale, digits = other.metric.scale, other.metric.digits
        shared = best.tested_on() & other.tested_on()
        lines.append(
            [
                _names([best]),
                _names([other]),
                f"{scale * test.difference:+.{digits}f} ± {scale * test.ci95:.{digits}f}",
                f"{test.t:.2f}",
                f"{test.df:,}",
                _probability(test.p),
                _probability(corrected),
                " and ".join(
                    str(sum(run.tested is not None and run.tested[0] in shared for run in of.runs)) for of in (best, other)
                ),
            ]
        )
    return lines


def _corrected(count: int) -> str:
    return f"p (Holm) is corrected for the {count} comparisons of the table." if count > 1 else ""


def _probability(p: float) -> str:
    return f"{p:.2g}" if p > 0 else "&lt; 1e-300"


def _names(found: Sequence[Method]) -> str:
    return ", ".join(f"<code>{html.escape(method.name)}</code>" for method in found)


def _tested_alike(found: Sequence[Method]) -> list[list[Method]]:
    """Groups of methods of one metric, connected by test tasks that two of them share."""
    groups: list[list[Method]] = []
    for method in found:
        joined = [
            group
            for group in groups
            if group[0].metric == method.metric and any(method.tested_on() & other.tested_on() for other in group)
        ]
        groups = [group for group in groups if group not in joined] + [[*chain.from_iterable(joined), method]]
    return groups


def _ranked(group: Sequence[Method]) -> list[Method]:
    """The best first."""
    return sorted(group, key=lambda method: _rank([score(run, "test")[0] for run in method.runs], method.metric))


def compare(a: Method, b: Method) -> Paired | None:
    """Paired test over the test tasks that both have; None: no such tasks, or a score that is not finite.

    Where several runs of a method were tested on the same tasks, as on a fixed test set, a task counts once, by its mean score.
    """
    ours, theirs = a.scores_by_tasks(), b.scores_by_tasks()
    if ours is None or theirs is None:
        return None
    pairs = [(ours[digest], theirs[digest]) for digest in ours if digest in theirs]
    if not pairs or any(x.shape != y.shape for x, y in pairs):
        return None
    x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return paired(x, y) if len(x) > 1 else None


def _curves(found: Sequence[Method], metric: Metric) -> Iterator[str]:
    shown = found[:CURVES]
    pictures = {
        "outer updates": [curve for method in shown if (curve := learning_curve(method, "updates"))],
        "seconds of training": [curve for method in shown if (curve := learning_curve(method, "seconds"))],
        "tasks seen": [curve for method in shown if (curve := learning_curve(method, "tasks"))],
        "inner steps": [curve for method in shown if (curve := adaptation_curve(method))],
    }
    pictures = {name: curves for name, curves in pictures.items() if curves}
    if pictures:
        yield f"<h2>Curves: {html.escape(metric.label)}</h2>"
        yield "<p>Validation against updates, time and tasks; the test by inner step. Bands: 95 % intervals"
        yield f"over seeds.{f' The first {CURVES} of {len(found)} methods.' if len(found) > CURVES else ''}</p>"
        yield _image(figures.curves(pictures, metric), f"{metric.label} against {', '.join(pictures)}")


def _matrices(found: Sequence[Method]) -> Iterator[str]:
    """A row of panels for each setting, a panel for each continual method."""
    means: dict[str, dict[str, list[list[float]]]] = defaultdict(dict)
    metrics = {}
    streams = [method for method in found if all(run.results.get("continual") for run in method.runs)]
    for method in streams[:MATRICES]:
        R = [run.results["continual"]["R"] for run in method.runs]
        if _alike(R):
            cl = str(method.runs[0].results["cl"])
            title = "\n".join(word for word in method.name.split() if word != f"cl={cl}")
            means[title][cl] = np.mean(np.array(R, np.float64), 0).tolist()
            metrics[title] = method.metric
    if means:
        yield "<h2>Streams: R</h2><p>Down: the untrained learner, then after each stage; across: stages. Mean over seeds.</p>"
        yield _image(figures.stage_matrices(means, metrics), f"R of {', '.join(means)}")


# Curves ----------------------------------------------------------------------------------------------------------------------


def learning_curve(method: Method, axis: str) -> Curve | None:
    """The validation score over seeds against `updates`, `seconds` or `tasks`; None where there is none, or one a stage."""
    tag = f"val/{method.metric.name}"
    rows: list[dict[int, tuple[float, float]]] = []
    for run in method.runs:
        tasks = run.results["protocol"]["train"]["tasks"]
        speeds = [(line["step"], line["time/tasks_per_second"]) for line in run.metrics if line.get("time/tasks_per_second")]
        known = [(line["step"], line[tag]) for line in run.metrics if line.get(tag) is not None]
        if not known or run.results.get("continual") or (axis == "seconds" and not speeds):
            return None
        clock = _clock(speeds, tasks)
        at = {step: {"updates": step, "tasks": step * tasks, "seconds": clock(step)}[axis] for step, _ in known}
        rows.append({step: (at[step], value) for step, value in known})
    steps = sorted(set.intersection(*(set(row) for row in rows)))
    if not steps:
        return None
    x = np.array([np.mean([row[step][0] for row in rows]) for step in steps])
    return Curve(method.name, x, *_band([[row[step][1] for row in rows] for step in steps], method.metric))


def adaptation_curve(method: Method) -> Curve | None:
    """The test score over seeds by inner step; None for learners without steps."""
    rows = [{row["step"]: row["mean"] for row in run.results["test"].get("by_step", [])} for run in method.runs]
    steps = [step for step in rows[0] if all(row.get(step) is not None for row in rows)]
    if len(steps) < 2:
        return None
    return Curve(method.name, np.array(steps, np.float64), *_band([[row[step] for row in rows] for step in steps], method.metric))


def _clock(speeds: Sequence[tuple[int, float]], tasks: int) -> Callable[[int], float]:
    """Seconds of training by step, from the mean speed so far that was logged now and then."""
    steps = np.array([0, *(step for step, _ in speeds)], np.float64)
    seconds = np.array([0, *(step * tasks / speed for step, speed in speeds)], np.float64)
    return lambda step: float(np.interp(step, steps, seconds))


def _band(values: Sequence[Sequence[float]], metric: Metric) -> tuple[Numbers, Numbers]:
    """Means over seeds and their 95 % intervals, for rows of values, as shown."""
    array = metric.scale * np.array(values, np.float64)
    count = array.shape[1]
    error = t_quantile(count - 1) * array.std(1, ddof=1) / count**0.5 if count > 1 else np.zeros(len(array))
    return array.mean(1), error


# HTML ------------------------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns without any content are left out."""
    kept = [i for i in range(len(heads)) if any(line[i] for line in lines)]
    head = "".join(f"<th>{heads[i]}</th>" for i in kept)
    body = "\n".join("<tr>" + "".join(f"<td>{line[i]}</td>" for i in kept) + "</tr>" for line in lines)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _image(figure: "Figure", alt: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    figures.close(figure)
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def _rank(values: Sequence[float | None], metric: Metric) -> float:
    """By their mean, the best first; what is not finite comes last."""
    mean = float(np.mean([np.inf if value is None else value for value in values]))
    return -metric.sign * mean if np.isfinite(mean) else np.inf


def _alike(R: Sequence[Sequence[Sequence[float | None]]]) -> bool:
    return len({(len(one), len(one[0])) for one in R}) == 1
