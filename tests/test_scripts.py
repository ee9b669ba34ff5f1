"""The maintainers' scripts, as far as they need no long training."""

import importlib.util
import json
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_compare(tmp_path, monkeypatch):
    compare = script("compare")
    monkeypatch.setattr(compare, "FOLDER", tmp_path)

    def keep(name, by_shots, batch_norm=None):
        results = {"train": {"iterations": 1200, "seconds": 59.6}, "protocol": {"train": {"tasks": 25}, "batch_norm": batch_norm}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "cell.json").write_text(json.dumps({"results": results, "by_shots": by_shots}))

    at = {"mean": 0.25, "ci95": 0.01, "n_nonfinite": 0, "median": 0.2}
    steps = [{"step": step, **at} for step in (0, 1, 2, 5, 10, 16)]
    steps[-1] = {"step": 16, "mean": None, "ci95": None, "n_nonfinite": 3, "median": 0.5}
    keep("imaml_sine", {"5": steps, "10": steps})
    keep("oracle_sine", {"5": [{"step": 0, **at}], "10": [{"step": 0, **at}]})
    keep("protonet_omniglot", {"1": [{"step": None, **at}]}, "running")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in compare.table("sine").splitlines()]
    assert rows[0][:5] == ["algorithm", "updates", "tasks", "seconds", "5-shot, 0 steps"]
    four = ["0.25 ± 0.01"] * 3 + ["0.25 ± 0.01 (16: not finite on 3 (median 0.5))"]
    assert rows[2] == ["imaml", "1,200", "25", "60", *four, *four]
    assert rows[3][4:8] == ["", "", "", "0.25 ± 0.01"]
    last = compare.table("omniglot").splitlines()[-1]
    assert last == "| protonet | 1,200 | 25 | 60 | running |  | 25.0 ± 1.0 |"
