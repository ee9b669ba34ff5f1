"""Compare all algorithms after the same training time: the table in docs/results.md.

    python scripts/compare.py                        sine, Omniglot and CIFAR-FS, more than an hour on two cores
    python scripts/compare.py --data sine --seconds 10
    python scripts/compare.py --algo maml,reptile --data omniglot

The number of updates that fit into the time is estimated by a short trial; validation and test are not included. Runs are in
outputs/compare/; finished ones are not run again. The table is printed and written to outputs/compare/table.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from metarun.algo.algorithm import recorded_steps
from metarun.metric import ACCURACY, recorded
from metarun.parts import build_parts
from metarun.report.statistics import over_tasks
from metarun.tracking import RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.evaluation import evaluate

GRADIENT = ["maml", "fomaml", "anil", "metasgd", "mamlpp", "reptile", "cavia", "imaml", "metalstm", "taskembed"]
NETWORKS = ["cnp", "lstm", "mann", "snail", "hypernet"]  # of algo=metalearner
BASELINES = ["finetune", "scratch", "nearest"]
BOTH = [*GRADIENT, *NETWORKS, *BASELINES]
ALGORITHMS = {"sine": [*BOTH, "oracle"], "omniglot": [*BOTH, "protonet", "matchingnet", "relationnet"]}
ALGORITHMS["cifarfs"] = ALGORITHMS["omniglot"]
SECONDS = {"sine": 60.0, "omniglot": 90.0, "cifarfs": 90.0}
FOLDER = Path("outputs/compare")
STEPS = (0, 1, 5, 10)


def metarun(algo: str, data: str, name: str, *overrides: str) -> dict[str, Any] | None:
    """Run metarun on the command line → its results; None if it fails, with its message printed."""
    path = FOLDER / name
    learner = ["algo=metalearner", f"algo.network={algo}"] if algo in NETWORKS else [f"algo={algo}"]
    command = ["-m", "metarun", *learner, f"data={data}", f"hydra.run.dir={path}", *overrides]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    results: dict[str, Any] = json.loads((path / "results.json").read_text())
    return results


def updates_in(seconds: float, algo: str, data: str, *overrides: str) -> int | None:
    """The number of updates that fit into the time, estimated by trials with more and more updates until one takes over 3 s."""
    count = 10
    while True:
        trial = metarun(
            algo,
            data,
            f"trial/{algo}_{data}",
            *overrides,
            f"trainer.iterations={count}",
            "restart=true",
            "trainer.validate_every=null",
            "trainer.test_tasks=2",
        )
        if trial is None:
            return None
        took = trial["train"]["seconds"]
        if trial["train"]["iterations"] == 0 or took > 3:
            break
        count = max(int(count * min(10.0, 4 / max(took, 0.01))), count + 1)
    return int(seconds * trial["train"]["iterations"] / max(took, 1e-9))


def test_with(path: Path, shots: int) -> list[dict[str, Any]]:
    """Test scores of a finished run's learner with another number of shots, by step."""
    config = RunFolder(path).configuration()
    config.data.shots = shots
    parts = build_parts(config)
    best, last = (checkpoint.load(path / "checkpoints" / f"{name}.pt") for name in ("best", "last"))
    states = best["states"] if best else None
    if states is None and last:
        parts.algorithm.load_state_dict(last["algorithm"])
    scores = evaluate(parts.algorithm, parts.stages[0].test, parts.trainer.test_tasks, ensemble=states)
    steps = recorded_steps(parts.algorithm.steps or 0)
    return [{"step": step, **over_tasks(row)} for step, row in zip(steps, scores, strict=True)]


def compare(algo: str, data: str, seconds: float, overrides: list[str]) -> None:
    """Run one cell, unless it has finished before."""
    name = f"{algo}_{data}"
    if (FOLDER / name / "cell.json").exists():
        return
    count = updates_in(seconds, algo, data, *overrides)
    if count is None:
        return
    budget = [f"trainer.iterations={count}", f"trainer.validate_every={max(count // 5, 1)}"]
    results = metarun(algo, data, name, *budget, *overrides)
    if results is None:
        return
    if data == "sine":
        shots = {shots: test_with(FOLDER / name, shots) for shots in (5, 10)}
    else:
        score = results["test"][recorded(results).name]
        shots = {1: [{"step": results["test"].get("steps", {"n": None})["n"], **score}]}
    (FOLDER / name / "cell.json").write_text(json.dumps({"results": results, "by_shots": shots}))
    print(f"{name}: {count:,} updates, {results['train']['seconds']:.0f} s", flush=True)


def cell(score: dict[str, Any] | None, percent: bool) -> str:
    if score is None:
        return ""
    if score["mean"] is None:
        return f"not finite on {score['n_nonfinite']} (median {score['median']:.3g})" if score["median"] else "not finite"
    if percent:
        return f"{100 * score['mean']:.1f} ± {100 * score['ci95']:.1f}"
    tail = f" (median {score['median']:.2g})" if score["median"] and score["mean"] > 20 * score["median"] else ""
    return f"{score['mean']:.3g} ± {score['ci95']:.2g}{tail}"


def table(data: str) -> str:
    """A Markdown table of the finished cells."""
    waves = data == "sine"
    wanted = [f"{shots}-shot, {step} step{'s' * (step != 1)}" for shots in (5, 10) for step in STEPS] if waves else []
    head = ["algorithm", "updates", "tasks", "seconds", *(wanted or ["batch norm", "steps", ACCURACY.label])]
    rows = []
    for algo in ALGORITHMS[data]:
        path = FOLDER / f"{algo}_{data}" / "cell.json"
        if not path.exists():
            continue
        kept = json.loads(path.read_text())
        train, protocol = kept["results"]["train"], kept["results"]["protocol"]
        row = [algo, f"{train['iterations']:,}", str(protocol["train"]["tasks"]), f"{train['seconds']:.0f}"]
        if waves:
            for shots in ("5", "10"):
                by_step = kept["by_shots"][shots]
                if len(by_step) == 1:  # a learner without steps: its score goes into the last column
                    row += [""] * (len(STEPS) - 1) + [cell(by_step[0], percent=False)]
                    continue
                steps = {row_at["step"]: row_at for row_at in by_step}
                shown = {step: cell(steps.get(step), percent=False) for step in STEPS}
                last = max(steps)
                if last not in STEPS:
                    shown[max(STEPS)] += f" ({last}: {cell(steps[last], percent=False)})"
                row += shown.values()
        else:
            last = kept["by_shots"]["1"][0]
            row += [protocol["batch_norm"] or "", "" if last["step"] is None else str(last["step"]), cell(last, percent=True)]
        rows.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sine,omniglot,cifarfs", help="comma-separated, among " + ", ".join(ALGORITHMS))
    parser.add_argument("--algo", help="comma-separated; default: all that suit the data")
    parser.add_argument("--seconds", type=float, help="training time per run; default: 60 on sine, 90 on images")
    parser.add_argument("--show", action="store_true", help="print the table of finished runs without running anything")
    parser.add_argument("overrides", nargs="*", help="overrides for metarun, such as trainer.threads=1 seed=1")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pages = []
    for data in given.data.split(","):
        for algo in given.algo.split(",") if given.algo else ALGORITHMS[data]:
            if algo in ALGORITHMS[data] and not given.show:
                compare(algo, data, given.seconds or SECONDS[data], ["trainer.figures=false", *given.overrides])
        pages.append(f"### {data}\n\n{table(data)}\n")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "table.md").write_text("\n".join(pages))
    print("\n".join(pages))


if __name__ == "__main__":
    main()
