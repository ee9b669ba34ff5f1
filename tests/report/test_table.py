"""Tables from run directories, by hand."""

import json

import pytest

from metarun.report.table import cell, rows_of, table


def finished(folder, cl, scenario, seed, acc, said="+table=split_mnist", status="finished"):
    path = folder / f"{cl}-{scenario}-{seed}-{status}"
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/overrides.yaml").write_text(json.dumps([f"cl={cl}", said]))
    results = {"status": status, "cl": cl, "seed": seed, "continual": {"acc": acc, "scenario": scenario}}
    (path / "results.json").write_text(json.dumps(results))


def test_measured_beside_published(tmp_path):
    for seed, (none, ewc) in enumerate([(0.5, 0.6), (0.6, 0.62), (0.7, 0.78)]):
        finished(tmp_path, "none", "domain", seed, none)
        finished(tmp_path, "ewc", "domain", seed, ewc)
    finished(tmp_path, "ewc", "class", 0, 0.2)
    finished(tmp_path, "mine", "task", 0, 0.9)
    finished(tmp_path, "none", "class", 0, 0.9, said="+paper=other")
    finished(tmp_path, "none", "class", 1, 0.9, status="interrupted")
    blocks = table("split_mnist", tmp_path).split("\n\n")
    task, domain, classes = ({line.split(" | ")[0].strip("| `"): line for line in block.splitlines()} for block in blocks[:3])
    assert "domain-incremental" in domain
    assert domain["none"] == "| `none` | 60.00 ± 24.83 (3 seeds) | 60.13 ± 1.66 |  |"
    assert domain["ewc"] == "| `ewc` | 66.67 ± 24.49 (3 seeds) | 63.03 ± 1.58 | +6.67 ± 10.34 (3 seeds) |"
    assert classes["ewc"] == "| `ewc` | 20.00 (1 seed) | 20.64 ± 0.52 |  |"
    assert classes["none"] == "| `none` |  | 19.89 ± 0.02 |  |"
    assert task["mine"] == "| `mine` | 90.00 (1 seed) |  |  |"


def test_an_interval_by_hand():
    assert cell({}) == ""
    assert cell({0: 1.0, 1: 3.0}) == "2.00 ± 12.71 (2 seeds)"
    assert cell({5: -1.25}, sign="+") == "-1.25 (1 seed)"
    assert float(cell({i: float(i % 2) for i in range(100)}).split("± ")[1].split(" ")[0]) == pytest.approx(0.1, abs=0.01)


def streamed(folder, name, algo, cl, seed, R, stages=("phase 0-1", "phase 1-2"), data="sine", **more):
    path = folder / f"{algo}-{cl}-{seed}-{stages[0]}".replace(" ", "-")
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/overrides.yaml").write_text(json.dumps([f"+table={name}"]))
    figures = {"acc": sum(R[-1]) / len(R[-1]), "bwt": -0.5, "forgetting": 0.5}
    continual = {"R": R, "stages": list(stages), "order": "given", "online": None, **figures, **more}
    metric = {"sine": "mse"}.get(data, "accuracy")
    results = {
        "status": "finished",
        "algo": algo,
        "data": data,
        "cl": cl,
        "seed": seed,
        "continual": continual,
        "test": {metric: {}},
    }
    (path / "results.json").write_text(json.dumps(results))


def rows(text):
    return [[part.strip(" `") for part in line.strip("|").split("|")] for line in text.splitlines()]


def test_figures_of_merit_of_streams(tmp_path):
    for seed, last in enumerate([1.0, 3.0]):
        streamed(tmp_path, "mine", "maml", "none", seed, [[4.0, 4.0], [1.0, 4.0], [3.0, last]])
    streamed(tmp_path, "mine", "maml", "ewc", 0, [[4.0, 4.0], [1.0, 4.0], [2.0, 2.0]])
    streamed(tmp_path, "mine", "maml", "ewc", 0, [[4.0, 4.0], [1.0, 4.0], [2.0, 0.0]], stages=("x 0-1", "x 1-2"))
    streamed(tmp_path, "other", "maml", "joint", 0, [[4.0, 4.0], [1.0, 4.0], [2.0, 2.0]])
    found = rows(table("mine", tmp_path))
    assert found[0] == ["stages", "cl", "acc", "bwt", "forgetting", "last stage"]  # what is the same, or empty, is left out
    assert found[2] == [
        "sine by phase",
        "none",
        "2.50 ± 6.36 (2 seeds)",
        "-0.50 ± 0.00 (2 seeds)",
        "0.50 ± 0.00 (2 seeds)",
        "2.00 ± 12.71 (2 seeds)",
    ]
    assert [line[:2] for line in found[3:]] == [["sine by phase", "ewc"], ["sine by x", "ewc"]]
    assert list(rows_of("mine", tmp_path)[1]) == [("sine by phase", "none"), ("sine by phase", "ewc"), ("sine by x", "ewc")]


def test_accuracies_are_in_per_cent_and_online_scores_shown(tmp_path):
    of = {"stages": ("alphabets 1-2", "alphabets 3-4"), "data": "omniglot"}
    streamed(tmp_path, "mine", "maml", "none", 0, [[0.2, 0.2], [0.5, 0.75]], online={"accuracy": 0.625}, **of)
    streamed(tmp_path, "mine", "protonet", "none", 0, [[0.2, 0.2], [0.5, 0.5]], **of)
    found = rows(table("mine", tmp_path))
    assert found[0] == ["algo", "acc", "bwt", "forgetting", "last stage", "online"]
    assert found[2][-2:] == ["75.00 (1 seed)", "62.50 (1 seed)"]
    assert found[3][-1] == ""


def test_scores_by_length(tmp_path):
    for algo, means in {"oml": (0.9, 0.5), "scratch": (0.5, 0.1)}.items():
        streamed(tmp_path, "mine", algo, "none", 0, [[0.2], [0.5]], data="omniglot")
        path = next(tmp_path.glob(f"{algo}-*")) / "results.json"
        results = json.loads(path.read_text()) | {"continual": None}
        results["test"]["by_length"] = [{"length": n, "mean": mean, "ci95": None} for n, mean in zip((10, 50), means, strict=True)]
        path.write_text(json.dumps(results))
    assert rows(table("mine", tmp_path)) == [
        ["algo", "10", "50"],
        ["---"] * 3,
        ["oml", "90.00 (1 seed)", "50.00 (1 seed)"],
        ["scratch", "50.00 (1 seed)", "10.00 (1 seed)"],
    ]
