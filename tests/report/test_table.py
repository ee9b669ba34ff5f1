"""Tables from run directories, by hand."""

import json

import pytest

from metarun.report.table import cell, table


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
