"""One run by the command line, every field of its results.json against a plain loop that shares no training code.

The twin takes the tasks and nothing else from metarun: the initial weights come from torch's own layers, updates from
`reference.maml_loss` and torch's Adam, scores and statistics from numpy.
"""

import json
import math
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch
from reference import descend, maml_loss, plain_loss, plain_mlp
from runs import results
from torch import nn

from metarun.data.provenance import digest
from metarun.data.sine import Sine
from metarun.rng import derive

SEED, UPDATES, TASKS, EVERY, VAL, TEST, FIRST, STEPS, TEST_STEPS = 3, 60, 4, 10, 8, 9, 5, 2, 3
INNER, OUTER, WIDTHS, LOG_EVERY = 0.02, 0.1, (8, 8), 15
SAID = (
    *(f"seed={SEED}", f"trainer.iterations={UPDATES}", f"trainer.tasks={TASKS}", f"trainer.validate_every={EVERY}"),
    *(f"trainer.val_tasks={VAL}", f"trainer.test_tasks={TEST}", f"trainer.paper_tasks={FIRST}", f"algo.inner_steps={STEPS}"),
    *(f"algo.test_steps={TEST_STEPS}", f"algo.inner_lr={INNER}", f"trainer.optimizer.lr={OUTER}", f"model.widths={list(WIDTHS)}"),
    *(f"trainer.log_every={LOG_EVERY}", "trainer.device=cpu", "trainer.threads=1", "trainer.figures=false"),
    *("trainer.tensorboard=false", "data.shots=4", "data.train_shots=5", "data.queries=6", "hydra.run.dir=run"),
)


def forward(weights, x, moments=None):
    return plain_mlp(weights, x), []


def initial() -> dict[str, torch.Tensor]:
    torch.manual_seed(derive(SEED, "initialisation"))
    layers = [nn.Linear(a, b) for a, b in zip((1, *WIDTHS), (*WIDTHS, 1), strict=True)]
    return {f"layers.{i}.{name}": w for i, layer in enumerate(layers) for name, w in layer.named_parameters()}


def scores(weights, tasks) -> np.ndarray:
    """Mean squared error of each task after 0 … TEST_STEPS inner steps, (steps + 1, tasks)."""
    found = []
    for t in range(len(tasks)):
        support, query = ((of.x[t], of.y[t]) for of in (tasks.support, tasks.query))
        slow = {name: w.detach().requires_grad_() for name, w in weights.items()}
        path = descend(lambda step, w, s=support: plain_loss(plain_mlp(w, s[0]), s[1]), slow, lambda step, name: INNER, TEST_STEPS)
        found.append([plain_loss(plain_mlp(w, query[0]), query[1]).item() for w in path])
    return np.array(found, dtype=np.float64).T


def statistics(values: np.ndarray) -> dict[str, object]:
    n = len(values)
    deviation = math.sqrt(sum((v - values.sum() / n) ** 2 for v in values) / (n - 1))
    ranked = sorted(values)
    median = ranked[n // 2] if n % 2 else (ranked[n // 2 - 1] + ranked[n // 2]) / 2
    return {"mean": values.sum() / n, "ci95": 1.96 * deviation / math.sqrt(n), "n_tasks": n, "n_nonfinite": 0, "median": median}


def by_step(values: np.ndarray) -> list[dict[str, object]]:
    rows = [statistics(row) for row in values]
    return [{"step": step, **{key: row[key] for key in row if key != "n_tasks"}} for step, row in enumerate(rows)]


def figures(values: np.ndarray) -> dict[str, object]:
    """Of a test, taken after as many inner steps as in training."""
    steps = {"n": STEPS, "chosen_by": "trained"}
    return {"mse": statistics(values[STEPS]), "steps": steps, "diverged": None, "by_step": by_step(values)}


def twin(stage):
    """Losses of the updates, validations by step, and the weights that were best on validation with their step."""
    weights, losses, validations, best = initial(), [], {}, None
    optimizer = torch.optim.Adam(weights.values(), lr=OUTER)
    for step in range(1, UPDATES + 1):
        tasks = stage.train.sample(torch.arange(TASKS) + (step - 1) * TASKS)
        optimizer.zero_grad()
        loss = maml_loss(forward, weights, tasks, rate=INNER, steps=STEPS)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        if step % EVERY == 0:
            validations[step] = scores(weights, stage.val.sample(torch.arange(VAL)))[STEPS]
            if best is None or validations[step].mean() < validations[best[0]].mean():
                best = step, {name: w.detach().clone() for name, w in weights.items()}
    return losses, validations, *best


def compressed(values: np.ndarray) -> float:
    """Mean over tasks of sign(v) log(1 + |v|)."""
    return float(np.mean(np.sign(values) * np.log1p(np.abs(values))))


def features(stage) -> dict[str, float]:
    """Of the first 64 training tasks, one after another."""
    tasks = stage.train.sample(torch.arange(64))
    rows, errors = [], []
    for t in range(64):
        x, y = (of[t, :, 0].double().numpy() for of in (tasks.support.x, tasks.support.y))
        qx, qy = (of[t, :, 0].double().numpy() for of in (tasks.query.x, tasks.query.y))
        z, v = (x - x.mean()) / (x.std() + 1e-6), (y - y.mean()) / (y.std() + 1e-6)
        rise = np.abs(np.diff(y[np.argsort(x)])).sum() / (x.max() - x.min() + 1e-6)
        moments = [np.mean(y * z**k) for k in (1, 2, 3)]
        rows.append([x.mean(), x.std(), y.mean(), y.std(), y.min(), y.max(), np.mean(v**3), *moments, rise])
        nearest = y[np.abs(qx[:, None] - x[None]).argmin(1)]
        a, b = ((of - x.mean()) / (x.std(ddof=1) + 1e-6) for of in (x, qx))
        ridge = y.mean() + b * (a @ (y - y.mean())) / (a @ a + 1)
        errors.append([np.mean((of - qy) ** 2) for of in (nearest, ridge, np.full_like(qy, y.mean()))])
    names = ("input_mean", "input_std", "target_mean", "target_std", "target_min", "target_max", "target_skewness")
    found = dict(zip((*names, "slope", "curvature", "cubic", "roughness"), map(compressed, np.array(rows).T), strict=True))
    nearest, ridge, level = np.array(errors).mean(0)
    shape = {"kind": 0.0, "inputs": 0.0, "outputs": 1.0, "ways": 0.0, "shots": 5.0, "queries": 6.0, "stages": 1.0}
    return shape | found | {"nearest_error": min(nearest / level, 10.0), "linear_error": min(ridge / level, 10.0)}


def close(found: object, expected: object, where: str = "results") -> None:
    """Numbers to 1e-3 relative, all else and every key exactly."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            close(found[i], value, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), where
    else:
        assert (found, type(found)) == (expected, type(expected)), where


def test_every_field(here):
    begun = time.monotonic()
    here(*SAID)
    took = time.monotonic() - begun
    found = results(here.folder / "run")
    (stage,) = Sine(SEED, shots=4, train_shots=5, queries=6).stages(torch.device("cpu"))
    losses, validations, best, weights = twin(stage)
    test = scores(weights, stage.test.sample(torch.arange(TEST)))
    assert 0 < best < UPDATES  # so that the best weights are not the last ones

    # What depends on the clock and on the checkout: checked here, and taken over below.
    seconds, speed = found["train"]["seconds"], found["train"]["tasks_per_second"]
    assert 0 < seconds < took
    assert speed == pytest.approx(UPDATES * TASKS / seconds, rel=0.02)
    source, git = found["environment"]["source"], found["environment"]["git"]
    assert len(source) == 16
    assert int(source, 16)
    head = subprocess.run(
        ["git", "-C", sys.path[0], "describe", "--always", "--abbrev=12", "--exclude=*"], capture_output=True, text=True
    )
    assert head.returncode or git is None or git.removesuffix("-dirty") == head.stdout.strip()

    close(
        found,
        {
            "schema": 2,
            "algo": "maml",
            "data": "sine",
            "cl": "none",
            "model": "mlp",
            "seed": SEED,
            "status": "finished",
            "budget": {"name": "full", "share": 1.0},
            "task": {
                "kind": "regression",
                "input_shape": [1],
                "outputs": 1,
                "train_outputs": 1,
                "name": "sine",
                "train_classes": None,
                "parameters": ["amplitude", "phase", "frequency"],
                "examples": False,
                "parts": 1,
            },
            "metric": {
                "name": "mse",
                "label": "mean squared error",
                "unit": "",
                "scale": 1.0,
                "digits": 3,
                "higher_is_better": False,
                "ceiling": None,
                "heavy_tailed": True,
            },
            "validation": {"mse": statistics(validations[best])},
            "test": {
                **figures(test),
                "first_tasks": figures(test[:, :FIRST]),
            },
            "continual": None,
            "train": {
                "iterations": UPDATES,
                "seconds": seconds,
                "tasks_per_second": speed,
                "best_iteration": best,
                "n_nonfinite": 0,
                "n_nonfinite_tasks": 0,
                "resumed_at": [],
            },
            "protocol": {
                "ways": None,
                "shots": 4,
                "queries": 6,
                "batch_norm": None,
                "n_test_tasks": TEST,
                "train": {"ways": None, "shots": 5, "queries": 6, "tasks": TASKS},
            },
            "environment": {
                "device": "cpu",
                "torch": str(torch.__version__),
                "metarun": version("metarun"),
                "git": git,
                "source": source,
                "threads": 1,
                "ranks": 1,
            },
            "task_features": features(stage),
            "tested": {"digest": digest([stage.test]), "classes": None, "train": {}, "overlap": None},
        },
    )

    stored = np.load(here.folder / "run/test.npz")
    assert sorted(stored) == ["scores", "stages"]
    assert stored["stages"].tolist() == ["sine"]
    np.testing.assert_allclose(stored["scores"], test[None], rtol=1e-3, atol=1e-5)

    lines = [json.loads(line) for line in (here.folder / "run/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "train/loss" in line]
    means = {end: sum(losses[end - LOG_EVERY : end]) / LOG_EVERY for end in range(LOG_EVERY, UPDATES + 1, LOG_EVERY)}
    assert {line["step"]: line["train/loss"] for line in logged} == pytest.approx(means, rel=1e-3)
    assert logged[-1]["time/tasks_per_second"] == pytest.approx(speed, rel=0.2)
    validated = {line["step"]: (line["val/mse"], line["ci95"]) for line in lines if "val/mse" in line}
    for step, values in validations.items():
        assert validated.pop(step) == pytest.approx((values.mean(), statistics(values)["ci95"]), rel=1e-3)
    assert not validated
    (last,) = (line for line in lines if "test/mse" in line)
    assert last == {"step": UPDATES, "test/mse": found["test"]["mse"]["mean"]}
    assert len(lines) == len(logged) + len(validations) + 1
