"""Run directories as tables read them, and the lines of a table made from them."""

import json

from metarun.report import render
from metarun.report.runs import collect
from metarun.report.table import make


def write(path, said, status="finished", **results):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/overrides.yaml").write_text(json.dumps([f"{key}={value}" for key, value in said.items()]))
    environment = {"git": "abc", "device": "cpu"}
    content = {"status": status, "environment": environment, "train": {"iterations": 100}, "continual": None, **results}
    (path / "results.json").write_text(json.dumps(content))


def stream(path, cl, scenario, seed, acc, table="split_mnist", **more):
    said = {"cl": cl, "data.scenario": scenario, "seed": seed, "+table": table}
    test = {"accuracy": {"mean": acc, "ci95": 0.01, "n_tasks": 10000}}
    continual = {"acc": acc, "scenario": scenario, "R": [[0.5], [acc]]}
    write(path / f"{cl}-{scenario}-{seed}", said, seed=seed, cl=cl, test=test, continual=continual, **more)


def paper(path, name, seed, mean, ci95=0.005, budget=None, changed=None, **more):
    said = {"+paper": name, "seed": seed, **(changed or {})}
    more["test"] = {"accuracy": {"mean": mean, "ci95": ci95, "n_tasks": 600}} | more.get("test", {})
    protocol = {"batch_norm": "transductive"}
    folder = path / "-".join([name, str(seed), (budget or {}).get("name", ""), *(changed or {})])
    write(folder, said, seed=seed, budget=budget, protocol=protocol, **more)


def lines(name, folder):
    """Its rows by their labels, cells by head."""
    text = render.markdown(make(name, collect([folder]))).partition("\n\n")[0]
    heads, _, *rows = [[part.strip(" `") for part in line[1:-1].split(" | ")] for line in text.splitlines()]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def pick(rows, **labels):
    (found,) = [row for row in rows if labels.items() <= row.items()]
    return found


def merit(path, said, seed, R, metric="mse", **more):
    continual = {"R": R, "online": None, "acc": sum(R[-1]) / len(R[-1]), "bwt": -0.5, "forgetting": 0.5, **more}
    write(
        path / "-".join(map(str, (*said.values(), seed))), {"seed": seed, **said}, seed=seed, test={metric: {}}, continual=continual
    )
