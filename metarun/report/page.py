"""A page that compares runs: a self-contained HTML file. Imports no torch.

This module computes the content; the template `page.html` lays it out and escapes every text.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metarun.files import replacing
from metarun.metric import Metric
from metarun.report import figures
from metarun.report.comparison import compare, ranked, tested_alike
from metarun.report.curves import adaptation_curve, learning_curve
from metarun.report.methods import Method, methods
from metarun.report.runs import Run
from metarun.report.scores import mean_of, score
from metarun.report.statistics import Paired, holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, MATRICES = 12, 20
"""Largest number of methods in a picture; more could not be told apart."""
MERIT = {"test": "test", "bwt": "BWT", "forgetting": "forgetting"}

Content = str | list[str]
"""Content of a cell: a text, or names to be set as code."""


class Listing(NamedTuple):
    """A table of the page."""

    heads: list[str]
    lines: list[list[Content]]


class Image(NamedTuple):
    """A picture of the page: its alternative text, and the PNG in base 64."""

    alt: str
    content: str


def page(runs: Sequence[Run]) -> str:
    """The page as text."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    compared = methods(runs)
    metrics = list(dict.fromkeys(method.metric for method in compared))
    by_metric = {metric: [method for method in compared if method.metric == metric] for metric in metrics}
    return environment.get_template("page.html").render(
        runs=len(runs),
        methods=len(compared),
        metrics=[metric.label for metric in metrics],
        results=_results(compared),
        unfinished=_unfinished(runs),
        tests=_tests(compared),
        unrecorded=_unrecorded(compared),
        curves=[section for metric, group in by_metric.items() if (section := _curves(group, metric)) is not None],
        most=CURVES,
        matrices=_matrices(compared),
    )


def save(runs: Sequence[Run], path: Path) -> Path:
    """Write the page to ``path``."""
    with replacing(path) as file:
        file.write(page(runs).encode())
    return path


def _results(compared: Sequence[Method]) -> Listing:
    heads = ["method", *MERIT.values(), "over tasks", "seeds", "test tasks", "batch norm", "updates", "seconds", "device", "commit"]
    return _listing(heads, [_result(method) for method in compared])


def _result(method: Method) -> list[Content]:
    results, digits = [run.results for run in method.runs], method.metric.digits
    merit = [mean_of([score(run, key)[0] for run in method.runs], digits) for key in MERIT]
    over_tasks = [ci for run in method.runs if (ci := score(run, "test")[1]) is not None]
    environments = [of_run["environment"] for of_run in results]
    return [
        [method.name],
        *(cell if isinstance(cell, str) else cell.text() for cell in merit),
        f"± {np.mean(over_tasks):.{digits}f}" if over_tasks else "",
        str(len(method.runs)),
        f"{method.runs[0].test['n_tasks']:,}",
        str(results[0]["protocol"]["batch_norm"] or ""),
        f"{method.runs[0].updates:,}",
        f"{np.mean([of_run['train']['seconds'] for of_run in results]):.0f}",
        ", ".join(sorted({environment["device"] for environment in environments})),
        ", ".join(sorted({environment["git"] for environment in environments if environment.get("git")})),
    ]


def _unfinished(runs: Sequence[Run]) -> Listing:
    """The runs without a result, with the reason."""
    unfinished = [run for run in runs if not run.finished]
    lines: list[list[Content]] = [[[str(run.path)], run.status, str(run.results.get("stopped", ""))[:200]] for run in unfinished]
    return _listing(["run", "status", "why"], lines)


def _tests(compared: Sequence[Method]) -> Listing:
    """Paired tests of each method against the best on the same test tasks."""
    tests = [
        (best, other, test)
        for best, *others in (ranked(group) for group in tested_alike(compared))
        for other in others
        if (test := compare(best, other)) is not None
    ]
    corrected = holm([test.p for *_, test in tests])
    heads = ["best", "other", "difference", "t", "df", "p", "p (Holm)", "runs"]
    return _listing(heads, [_test(*test, p) for test, p in zip(tests, corrected, strict=True)])


def _test(best: Method, other: Method, test: Paired, corrected: float) -> list[Content]:
    scale, digits = other.metric.scale, other.metric.digits
    shared = best.tested_on() & other.tested_on()
    runs = [sum(run.tested is not None and run.tested[0] in shared for run in of.runs) for of in (best, other)]
    return [
        [best.name],
        [other.name],
        f"{scale * test.difference:+.{digits}f} ± {scale * test.ci95:.{digits}f}",
        f"{test.t:.2f}",
        f"{test.df:,}",
        _probability(test.p),
        _probability(corrected),
        " and ".join(map(str, runs)),
    ]


def _unrecorded(compared: Sequence[Method]) -> list[str]:
    """Names of methods with runs that do not record their test tasks; empty if there is only one method."""
    names = [method.name for method in compared if any(run.tested is None for run in method.runs)]
    return names if len(compared) > 1 else []


def _curves(compared: Sequence[Method], metric: Metric) -> dict[str, Any] | None:
    """The curves of ``compared``, all with ``metric``, in one picture; None if there are none."""
    shown = compared[:CURVES]
    curves = {
        "outer updates": [learning_curve(method, "updates") for method in shown],
        "seconds of training": [learning_curve(method, "seconds") for method in shown],
        "tasks seen": [learning_curve(method, "tasks") for method in shown],
        "inner steps": [adaptation_curve(method) for method in shown],
    }
    panels = {axis: [curve for curve in of_axis if curve is not None] for axis, of_axis in curves.items()}
    panels = {axis: of_axis for axis, of_axis in panels.items() if of_axis}
    if not panels:
        return None
    picture = _image(figures.curves(panels, metric), f"{metric.label} against {', '.join(panels)}")
    return {"label": metric.label, "methods": len(compared), "picture": picture}


def _matrices(compared: Sequence[Method]) -> Image | None:
    """R of streams: a row of panels per setting, a panel per continual-learning method."""
    means: dict[str, dict[str, list[list[float]]]] = defaultdict(dict)
    metrics = {}
    streams = [method for method in compared if all(run.results.get("continual") for run in method.runs)]
    for method in streams[:MATRICES]:
        R = [run.results["continual"]["R"] for run in method.runs]
        if len({np.shape(one) for one in R}) == 1:
            cl = str(method.runs[0].results["cl"])
            title = "\n".join(word for word in method.name.split() if word != f"cl={cl}")
            means[title][cl] = np.mean(np.array(R, np.float64), 0).tolist()
            metrics[title] = method.metric
    return _image(figures.stage_matrices(means, metrics), f"R of {', '.join(means)}") if means else None


def _listing(heads: Sequence[str], lines: Sequence[list[Content]]) -> Listing:
    """A table without the columns that are empty in every line."""
    kept = [i for i in range(len(heads)) if any(line[i] for line in lines)]
    return Listing([heads[i] for i in kept], [[line[i] for i in kept] for line in lines])


def _probability(p: float) -> str:
    return f"{p:.2g}" if p > 0 else "< 1e-300"


def _image(figure: "Figure", alt: str) -> Image:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    figures.close(figure)
    return Image(alt, base64.b64encode(content.getvalue()).decode())
