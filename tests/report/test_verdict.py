"""Verdicts worked by hand, and how many seeds one wants, by simulation."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest
from omegaconf import OmegaConf

from metarun.config import CONFIGS
from metarun.metric import ACCURACY, MSE
from metarun.report.protocol import row
from metarun.report.published import Published, published
from metarun.report.runs import collect
from metarun.report.scores import Measure
from metarun.report.statistics import over_seeds
from metarun.report.table import make
from metarun.report.verdict import margin, seeds_wanted, verdict


def figure(value, ci95=None, digits=1):
    return Published(value, ci95, digits, "finn2017", "1", "paper", "")


@pytest.mark.parametrize(
    ("beside", "metric", "expected"),
    [
        (figure(98.8), ACCURACY, 0.3),  # a quarter of 1.2
        (figure(63.0), ACCURACY, 1.5),  # a quarter of 37 is more
        (figure(94.0), ACCURACY, 1.5),  # a quarter of 6, exactly the cap
        (figure(99.7), ACCURACY, 0.075),
        (figure(98.7, 0.4), ACCURACY, 0.4),  # the published interval, above 0.325
        (figure(99.9, 0.01), ACCURACY, 0.05),  # half of the printed digit, above 0.025
        (figure(99.90, 0.01, 2), ACCURACY, 0.025),
        (figure(99.0, digits=0), ACCURACY, 0.5),
        (figure(0.67, digits=2), MSE, 0.067),
        (figure(0.19, 0.02, 2), MSE, 0.02),
        (figure(0.03, digits=2), MSE, 0.005),
    ],
)
def test_margins_by_hand(beside, metric, expected):
    assert margin(beside, metric) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mean", "ci95", "seeds", "expected"),
    [
        (98.8, 0.2, 3, "reproduced"),
        (98.6, 0.1, 3, "reproduced"),  # 0.2 + 0.1: the edge of the margin, 0.3
        (98.59, 0.1, 3, "inconclusive"),
        (99.0, 0.1, 5, "reproduced"),
        (99.01, 0.1, 5, "inconclusive"),
        (99.2, 0.1, 3, "better than published"),  # 0.4 - 0.1
        (99.19, 0.1, 3, "inconclusive"),
        (98.4, 0.1, 3, "worse than published"),
        (98.41, 0.1, 3, "inconclusive"),
        (98.8, 0.31, 9, "inconclusive"),  # too wide, wherever the mean is
        (60.0, 50.0, 3, "inconclusive"),
        (98.8, 0.0, 2, "inconclusive"),  # two seeds
        (98.8, None, 1, "inconclusive"),
        (50.0, None, 1, "inconclusive"),  # a seed that failed says no more of the mean than one that did not
        (math.nan, math.nan, 3, "not finite"),
        (math.inf, math.nan, 3, "not finite"),
    ],
)
def test_verdicts_by_hand(mean, ci95, seeds, expected):
    assert verdict(mean, ci95, seeds, figure(98.8), ACCURACY) == expected


def test_of_an_error_less_is_better():
    beside = figure(0.5, digits=2)  # margin 0.05
    assert verdict(0.52, 0.03, 3, beside, MSE) == "reproduced"
    assert verdict(0.40, 0.05, 3, beside, MSE) == "better than published"
    assert verdict(0.60, 0.05, 3, beside, MSE) == "worse than published"
    assert verdict(0.56, 0.02, 3, beside, MSE) == "inconclusive"


def test_curves_without_a_value_have_no_verdict():
    with pytest.raises(ValueError, match=r"^expected a published value; the paper shows only curves$"):
        margin(figure(None), MSE)
    with pytest.raises(ValueError, match="published value"):
        verdict(0.5, 0.1, 3, figure(None), MSE)


def test_a_worse_agreement_of_seeds_never_makes_a_verdict():
    """Seeds that spread wider can only move a verdict to inconclusive."""
    for mean in (97.0, 98.3, 98.7, 98.8, 99.0, 99.9):
        said = [verdict(mean, ci95, 5, figure(98.8), ACCURACY) for ci95 in np.linspace(0, 60, 400)]
        assert len(set(said) - {"inconclusive"}) <= 1
        assert said == sorted(said, key=lambda one: one == "inconclusive")


@pytest.mark.parametrize(("spread", "allowed"), [(0.25, 0.3), (0.4, 0.3), (1.0, 1.5), (0.046, 0.035)])
def test_the_seeds_wanted_reproduce_a_method_that_is_the_published_one_four_times_in_five(spread, allowed):
    beside = figure(0.0, allowed, 9)  # its margin is its interval
    rng = np.random.default_rng(0)

    def power(seeds):
        drawn = rng.normal(0.0, spread, (4000, seeds))
        return np.mean([verdict(*over_seeds(row), seeds, beside, MSE) == "reproduced" for row in drawn])

    wanted = seeds_wanted(spread, allowed)
    assert power(wanted) > 0.77
    assert power(wanted - 1) < 0.83


@pytest.mark.parametrize("spread", [0.1, 0.15, 0.2, 0.25, 0.33, 0.4, 0.5, 0.7, 1.0])
def test_the_seeds_wanted_are_the_fewest_that_scipys_quantiles_allow(spread):
    t = pytest.importorskip("scipy.stats").t

    def enough(seeds, margin=0.3):
        return seeds**0.5 * margin / spread >= t.ppf(0.975, seeds - 1) + t.ppf(0.9, seeds - 1)

    wanted = seeds_wanted(spread, 0.3)
    assert enough(wanted)
    assert wanted == 3 or not enough(wanted - 1)


@pytest.mark.parametrize(("ratio", "expected"), [(0.9, 16), (1.15, 11), (1.65, 7), (1.95, 5), (2.35, 5), (2.5, 4)])
def test_the_seeds_wanted_where_one_degree_of_freedom_more_or_less_is_another_number(ratio, expected):
    assert seeds_wanted(1.0, ratio) == expected


def test_seeds_wanted_at_the_ends():
    assert seeds_wanted(0.0, 0.3) == 3
    assert seeds_wanted(1e-6, 0.3) == 3
    assert seeds_wanted(10.0, 0.075) == pytest.approx((3.2415 * 10 / 0.075) ** 2, rel=1e-3)


def finished(path, seed, mean, ci95, *, n_tasks=1000, said=(), share=1.0, wanted=1000):
    """A run of a prototypical network's row, as a run directory has it."""
    (path / ".hydra").mkdir(parents=True)
    overrides = ["+paper=protonet_omniglot_5way_1shot", f"seed={seed}", *said]
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    config = OmegaConf.create()
    for key, value in (row("protonet_omniglot_5way_1shot") | {"trainer.test_tasks": wanted}).items():
        OmegaConf.update(config, key, value, force_add=True)
    (path / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    results = {
        "status": "finished",
        "seed": seed,
        "algo": "protonet",
        "budget": {"name": "full", "share": share},
        "test": {"accuracy": {"mean": mean / 100, "ci95": None if ci95 is None else ci95 / 100, "n_tasks": n_tasks}},
        "continual": None,
        "protocol": {"batch_norm": "running", "n_test_tasks": n_tasks},
        "train": {"iterations": 20000},
        "environment": {"git": "abc", "device": "cpu"},
    }
    (path / "results.json").write_text(json.dumps(results))


def line_of(folder):
    table = make("protonet_omniglot", collect([folder]))
    (line,) = [line for line, row in zip(table.lines, table.rows, strict=True) if row.runs]
    return dict(zip(table.heads, line, strict=True))


@pytest.mark.parametrize(
    ("seeds", "n_tasks", "said", "expected"),
    [
        ((97.0, 91.0), 1000, (), "inconclusive"),  # 94.00 ± 38.12
        ((98.0, 80.0), 1000, (), "inconclusive"),  # 89.00 ± 114.36
        ((99.0, 95.0, 60.0), 1000, (), "inconclusive"),  # one seed collapsed: 84.67 ± 53.30
        ((90.0,), 5, ("budget=full", "budget.test_tasks=5"), "short budget"),
        ((97.8,), 1, ("budget.test_tasks=1",), "short budget"),  # no interval at all
        ((97.81,), 1000, (), "inconclusive"),  # of one seed nothing is known over seeds
        ((98.7, 98.8, 98.9), 1000, (), "reproduced"),  # 98.80 ± 0.25
        ((98.7, 98.8, 98.9), 999, (), "short budget"),
        ((97.9, 98.0, 98.1), 1000, (), "worse than published"),
        ((99.4, 99.5, 99.6), 1000, (), "better than published"),
        ((98.7, 98.8, 98.9), 1000, ("budget.test_tasks=1000",), "reproduced"),  # which cuts nothing
    ],
)
def test_verdicts_of_finished_runs(tmp_path, seeds, n_tasks, said, expected):
    for seed, mean in enumerate(seeds):
        finished(tmp_path / str(seed), seed, mean, None if n_tasks == 1 else 0.25, n_tasks=n_tasks, said=said)
    assert line_of(tmp_path)["verdict"] == expected


def test_one_shortened_seed_shortens_the_row(tmp_path):
    for seed, n_tasks in enumerate((1000, 1000, 600)):
        finished(tmp_path / str(seed), seed, 98.8, 0.1, n_tasks=n_tasks)
    assert line_of(tmp_path)["verdict"] == "short budget"


def test_margin_and_seeds_wanted_are_in_the_table(tmp_path):
    for seed, mean in enumerate((98.0, 98.5, 99.0)):
        finished(tmp_path / str(seed), seed, mean, 0.1)
    line = line_of(tmp_path)
    assert (line["published"].text(), line["margin"], line["seeds"]) == ("98.8 ?", "± 0.3", "3")
    assert line["seeds wanted"] == str(seeds_wanted(0.5, 0.3)) == "32"
    finished(tmp_path / "one" / "0", 0, 98.0, 0.1)
    assert line_of(tmp_path / "one")["seeds wanted"] == "3 or more"


def test_every_published_value_has_a_margin_and_its_printed_digits():
    for name, looks in published().items():
        for beside in looks.values():
            if beside.value is not None:
                metric = MSE if "sine" in name else ACCURACY
                assert 0 < margin(beside, metric) < 100
                assert beside.digits in (1, 2), name
    assert published()["snail_omniglot_20way_1shot"]["test"].digits == 2
    assert published()["reptile_omniglot_5way_5shot"]["test"].digits == 2  # 98.90
    assert published()["maml_omniglot_20way_5shot"]["test"].digits == 1  # 98.9


def documented():
    """The rows of docs/results.md that have a verdict, by column."""
    heads = []
    for line in (CONFIGS.parent / "docs" / "results.md").read_text().splitlines():
        cells = [cell.strip() for cell in line[1:-1].split("|")] if line.startswith("|") else []
        if "verdict" in cells:
            heads = cells
        elif not cells:
            heads = []
        elif heads and not set(cells) <= {"---"}:
            yield dict(zip(heads, cells, strict=True))


def shown(beside):
    """A published figure as a table prints it."""
    return Measure(beside.value, beside.ci95, beside.digits, mark="" if beside.verified == "paper" else " ?").text()


def test_the_verdicts_on_the_results_page_follow_from_the_figures_beside_them():
    by_text = defaultdict(list)
    for name, looks in published().items():
        for beside in looks.values():
            if beside.value is not None:
                by_text[shown(beside)].append((MSE if "sine" in name else ACCURACY, beside))
    rows = list(documented())
    assert len(rows) > 40
    for line in rows:
        metric, beside = by_text[line["published"]][0]
        assert line["margin"] == f"± {margin(beside, metric):.3g}"
        mean, _, ci95 = line["measured"].partition(" ± ")
        if line.get("changed"):
            assert line["verdict"] == "other protocol"
        elif line.get("budget", "full") != "full":
            assert line["verdict"] == "short budget"
        else:
            assert verdict(float(mean), float(ci95) if ci95 else None, int(line["seeds"]), beside, metric) == line["verdict"]


def test_a_change_on_the_results_page_is_one_from_the_row_of_today():
    changed = [line for line in documented() if line.get("changed")]
    assert changed
    for line in changed:
        names = [
            name
            for name, looks in published().items()
            if name.endswith(f"_omniglot_{line['cell'].strip('`')}")
            and "test" in looks
            and shown(looks["test"]) == line["published"]
        ]
        assert names
        for change in line["changed"].strip("`").split():
            key, _, value = change.partition("=")
            assert all(row(name)[key] != OmegaConf.from_dotlist([f"it={value}"]).it for name in names), change
