"""Run directories as the page reads them, and the cells of its tables."""

import json
import re

import numpy as np


def write(
    path, algo, seed, scores, *, status="finished", overrides=(), stages=None, metrics=(), tested="tasks {seed}", of=None, **more
):
    """``scores`` (stages, tasks) of the test, accuracies.

    ``tested``: the digest of the test tasks, None as of an older version; ``of``: the overrides of a test of an earlier run.
    """
    scores = np.atleast_2d(np.array(scores, np.float64))
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/overrides.yaml").write_text(json.dumps([f"algo={algo}", f"seed={seed}", "trainer.threads=1", *overrides]))
    mean = {"mean": float(scores.mean()), "ci95": 0.01, "n_tasks": scores.size, "n_nonfinite": 0, "median": 0.5}
    by_step = [{"step": step, "mean": 0.1 * step + 0.01 * seed, "ci95": 0.01} for step in range(3)]
    results = {
        "status": status,
        "algo": algo,
        "data": "omniglot",
        "cl": "none",
        "seed": seed,
        "test": {"accuracy": mean, "by_step": by_step},
        "continual": stages and {"R": [[0.2, 0.2], [0.9, 0.3], [0.5, 0.8]], "stages": stages, "bwt": -0.4, "forgetting": 0.4},
        "protocol": {"ways": 5, "shots": 1, "queries": 15, "batch_norm": "support", "n_test_tasks": 3, "train": {"tasks": 4}},
        "train": {"iterations": 300, "seconds": 12.0},
        "environment": {"device": "cpu", "git": "abc"},
        **({"tested": {"digest": tested.format(seed=seed), "classes": 423}} if tested else {}),
        **({} if of is None else {"overrides": of}),
        **more,
    }
    (path / "results.json").write_text(json.dumps(results))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics) + '{"step": 9')  # killed while writing
    np.savez(path / "test.npz", scores=scores[:, None, :], stages=np.array(stages or ["all"]))


def curve(*values):
    """Validated every hundred updates at 40 tasks a second."""
    lines = []
    for i, value in enumerate(values, 1):
        lines += [{"step": 100 * i, "train/loss": 1.0, "time/tasks_per_second": 40.0}, {"step": 100 * i, "val/accuracy": value}]
    return lines


def cells(text, section):
    """The rows of a section's table, by column."""
    table = text.partition(f"<h2>{section}</h2>")[2].partition("</table>")[0]
    heads = re.findall("<th>(.*?)</th>", table)
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", table)]
    return [dict(zip(heads, (re.sub("<.*?>", "", cell) for cell in row), strict=True)) for row in rows]


def errors(path, algo, seed, scores, **more):
    """A run of a regression: mean squared errors (tasks,), by step 1.0, 0.5 and 0.25; of one task the first alone."""
    scores = np.array(scores, np.float64)
    test = {"mse": {"mean": float(scores.mean()), "ci95": None if len(scores) == 1 else 0.125, "n_tasks": len(scores)}}
    test["by_step"] = [{"step": step, "mean": 0.5**step} for step in range(3)] if len(scores) > 1 else [{"step": 0, "mean": 1.0}]
    environment = {"device": f"cuda {seed}", "git": None if seed else "abc"}
    protocol = {"batch_norm": None, "train": {"tasks": 25}}
    metrics = [{"step": 100, "train/loss": 1.0}, {"step": 100, "val/mse": 2.0}, {"step": 200, "val/mse": 1.5}]
    write(path, algo, seed, scores, test=test, environment=environment, protocol=protocol, metrics=metrics, **more)
