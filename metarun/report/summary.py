"""Describes a finished run in a few lines of text, from its results.json alone."""

from collections.abc import Mapping
from typing import Any

from metarun.metric import Metric, recorded

STEPS_SHOWN = (0, 1, 2, 3, 5, 10)


def describe(results: Mapping[str, Any]) -> str:
    """The test scores with their intervals, by inner step if the learner takes any, and the conditions of the test."""
    test = results["test"]
    metric = recorded(results)
    protocol, train = results["protocol"], results["train"]
    unit = "tasks" if results["protocol"]["shots"] else "examples"
    groups = [(f"{test[metric.name]['n_tasks']:,} test {unit}", test)]
    if "first_tasks" in test:
        groups.append((f"first {test['first_tasks'][metric.name]['n_tasks']:,}", test["first_tasks"]))
    also = " (median)" if metric.heavy_tailed else ""
    lines = ["", f"{'inner steps':<12}" * ("by_step" in test) + f"{metric.label}, mean ± 95 % interval over {unit}{also}"]
    if "by_step" in test:
        last, scored = test["by_step"][-1]["step"], (test.get("steps") or {}).get("n")
        if len(groups) > 1:
            lines.append(" " * 12 + "".join(f"{title:<26}" for title, _ in groups))
        for rows in zip(*(group["by_step"] for _, group in groups), strict=True):
            step = rows[0]["step"]
            if step in (*STEPS_SHOWN, scored, last) or step > max(STEPS_SHOWN):
                cells = "".join(f"{_cell(row, metric):<26}" for row in rows)
                lines.append(f"{step:<12}{cells}".rstrip())
    else:
        lines += [f"{_cell(group[metric.name], metric):<26}{title}" for title, group in groups]
    if test.get("steps"):
        lines.append(f"The reported score is the one after {_steps(test['steps'])}.")
    if test.get("diverged"):
        lines.append(_diverged(test["diverged"], test[metric.name]["n_tasks"], metric))
    bad = test[metric.name]["n_nonfinite"]
    if bad:
        lines.append(f"{bad:,} of {test[metric.name]['n_tasks']:,} tasks are not finite; median {test[metric.name]['median']}")
    skipped = results["train"].get("n_nonfinite")
    if skipped:
        lines.append(f"{skipped:,} of {results['train']['iterations']:,} updates were not finite and were reverted")
    if results.get("continual"):
        stream = results["continual"]
        figures = [
            f"{key} {stream[key]:.4g}"
            for key in ("acc", "aia", "bwt", "fwt", "forgetting", "intransigence")
            if stream[key] is not None
        ]
        lines += [
            "",
            f"over {len(stream['stages'])} stages (higher is better, except forgetting and intransigence): " + ", ".join(figures),
        ]
        if stream.get("online"):
            online = stream["online"]
            mean = "not finite" if online[metric.name] is None else f"{online[metric.name]:.4g}"
            line = f"online {metric.name} {mean} over {online['rounds']:,} rounds with {online['switches']} stage switches"
            detected = len(online["boundaries"])
            lines.append(line + f", {detected} boundaries detected" * bool(detected))
    ways = f"{protocol['ways']}-way " if protocol["ways"] else ""
    norm = f", batch norm {protocol['batch_norm']}" if protocol["batch_norm"] else ""
    best = train["best_iteration"]
    kind = f"tasks, {ways}{protocol['shots']}-shot, {protocol['queries']} queries{' per class' if ways else ''}"
    if not protocol["shots"]:
        kind = f"examples, {protocol['ways']} classes"
    lines += [
        "",
        f"{test[metric.name]['n_tasks']:,} test {kind}{norm}; {train['iterations']:,} updates"
        f"{f' (best on validation: {best:,})' if best else ''} in {train['seconds']:.0f} s"
        f" on {results['environment']['device']}",
    ]
    return "\n".join(lines)


def figure(results: Mapping[str, Any]) -> str:
    """The test score in a few words: `accuracy 97.71 ± 0.21 %`."""
    metric = recorded(results)
    return metric.describe(results["test"][metric.name])


def _steps(steps: Mapping[str, Any]) -> str:
    """`1 inner step, as in training`."""
    why = {"trained": "as in training", "validation": "chosen on validation", "last": "the last evaluated"}
    return f"{steps['n']} inner step{'s' * (steps['n'] != 1)}, {why[steps['chosen_by']]}"


def _diverged(diverged: Mapping[str, Any], tasks: int, metric: Metric) -> str:
    """The number of diverged test tasks, the worst of them, and the mean of the others."""
    worst = diverged["tasks"][0]
    error = "not finite" if worst[metric.name] is None else f"{worst[metric.name]:.3g}"
    others = diverged["others"] and diverged["others"]["mean"] is not None
    return (
        f"{diverged['n']:,} of {tasks:,} test tasks diverged: their error exceeds ten times the mean error before adaptation"
        f" (the worst: {worst['stage']} task {worst['task']}, {error})"
        + (f"; the mean of the others is {metric.text(diverged['others'])}" if others else "")
    )


def _cell(row: Mapping[str, Any], metric: Metric) -> str:
    """Mean and interval, with the median for a heavy-tailed metric: a few bad tasks can dominate the mean but not the median."""
    median = row.get("median") if metric.heavy_tailed else None
    return metric.text(row) + ("" if median is None else f" ({metric.shown(median)})")
