"""The page that compares runs, from made-up run directories."""

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from metarun.report.page import adaptation_curve, compare, learning_curve, methods, page, save
from metarun.report.runs import collect
from metarun.report.statistics import holm, paired


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


@pytest.fixture
def runs(tmp_path):
    for seed in range(2):
        write(tmp_path / f"a{seed}", "maml", seed, [0.5, 0.7, 0.9], metrics=curve(0.5 + 0.1 * seed, 0.6))
        write(tmp_path / f"b{seed}", "protonet", seed, [0.6, 0.9, 0.8], metrics=curve(0.8, 0.9))
    write(tmp_path / "b1" / "eval" / "x", "protonet", 1, [0.1])  # a test of a run is no run
    write(tmp_path / "old" / "superseded" / "1", "protonet", 3, [0.1])
    return tmp_path


def test_methods_are_runs_of_one_configuration(runs):
    write(runs / "c", "maml", 0, [0.1, 0.2, 0.3], overrides=["algo.inner_lr=0.5"])
    found = methods(collect([runs]))
    assert [(method.name, [run.seed for run in method.runs]) for method in found] == [
        ("maml", [0, 1]),
        ("maml inner_lr=0.5", [0]),
        ("protonet", [0, 1]),
    ]


def test_what_the_algorithm_implies_is_not_in_a_name(runs):
    write(runs / "c", "reptile", 0, [0.1, 0.2, 0.3], overrides=["algo.inner_lr=0.5"])
    assert [method.name for method in methods(collect([runs]))] == ["maml", "protonet", "reptile"]


def test_a_name_always_has_the_paper_the_budget_and_the_updates(tmp_path):
    said = {
        "a": ["+paper=finetune_sine_5shot", "budget=smoke", "trainer.test_tasks=20"],
        "b": ["trainer.iterations=600", "trainer.test_tasks=20"],
        "c": ["budget=full", "budget.share=0.5"],
        "d": ["data.amplitude=[1.0, 2.0]"],
    }
    for name, overrides in said.items():
        write(tmp_path / name, name, 0, [0.5], overrides=overrides)
    write(tmp_path / "d2", "d", 0, [0.5], overrides=["budget=full"])
    assert [method.name for method in methods(collect([tmp_path]))] == [
        "a paper=finetune_sine_5shot budget=smoke",
        "b iterations=600",
        "c share=0.5",
        "d",
        "d amplitude=[1.0, 2.0]",
    ]


def cells(text, section):
    """The rows of a section's table, by column."""
    table = text.partition(f"<h2>{section}</h2>")[2].partition("</table>")[0]
    heads = re.findall("<th>(.*?)</th>", table)
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", table)]
    return [dict(zip(heads, (re.sub("<.*?>", "", cell) for cell in row), strict=True)) for row in rows]


def test_a_paired_test_over_the_tasks_of_the_same_seeds(runs):
    write(runs / "b2", "protonet", 2, [0.0, 0.0, 0.0])  # of a seed that the other has not
    maml, protonet = methods(collect([runs]))
    expected = paired(np.array([0.6, 0.9, 0.8] * 2), np.array([0.5, 0.7, 0.9] * 2))
    assert compare(protonet, maml) == expected
    (row,) = cells(page(collect([runs / "a0", runs / "a1", runs / "b0", runs / "b1"])), "Paired tests")
    assert row == {
        "best": "protonet",
        "other": "maml",
        "difference": f"+6.67 ± {100 * expected.ci95:.2f}",
        "t": f"{expected.t:.2f}",
        "df": "5",
        "p": f"{expected.p:.2g}",
        "p (Holm)": f"{expected.p:.2g}",
        "runs": "2 and 2",
    }


def test_different_test_tasks_are_never_paired(tmp_path):
    """Two papers' rows with the same ways, shots and numbers, on other characters."""
    scores = [0.5, 0.7, 0.9]
    write(tmp_path / "a", "metasgd", 0, scores, overrides=["+paper=metasgd_omniglot_5way_1shot"], tested="maml's split")
    write(tmp_path / "b", "protonet", 0, scores[::-1], overrides=["+paper=protonet_omniglot_5way_1shot"], tested="vinyals' split")
    assert compare(*methods(collect([tmp_path]))) is None
    assert "Paired tests" not in page(collect([tmp_path]))


def test_what_changes_training_alone_is_paired(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7, 0.9], overrides=["data.train_ways=20", "data.flip=true"])
    write(tmp_path / "b", "protonet", 0, [0.6, 0.9, 0.8])
    assert compare(*methods(collect([tmp_path]))) == paired(np.array([0.5, 0.7, 0.9]), np.array([0.6, 0.9, 0.8]))
    assert len(cells(page(collect([tmp_path])), "Paired tests")) == 1


def test_runs_that_do_not_record_their_test_tasks_are_not_paired(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7, 0.9], tested=None)
    write(tmp_path / "b", "protonet", 0, [0.6, 0.9, 0.8])
    text = page(collect([tmp_path]))
    assert cells(text, "Paired tests") == []
    assert "made by an older version" in text
    assert "paired tests: <code>maml</code>. <code>metarun eval RUN</code>" in " ".join(text.split())
    write(tmp_path / "a/eval/1", "maml", 0, [0.1, 0.1, 0.1], of=["data.shots=5"])  # another test
    assert cells(page(collect([tmp_path])), "Paired tests") == []
    write(tmp_path / "a/eval/2", "maml", 0, [0.5, 0.7, 0.6], of=[])
    assert compare(*methods(collect([tmp_path]))) == paired(np.array([0.5, 0.7, 0.6]), np.array([0.6, 0.9, 0.8]))
    assert "older version" not in page(collect([tmp_path]))


def test_a_fixed_test_set_counts_once_however_many_seeds(tmp_path):
    for seed, (a, b) in enumerate([([1, 0, 1, 1], [0, 0, 1, 0]), ([1, 1, 0, 1], [0, 1, 0, 1])]):
        write(tmp_path / f"a{seed}", "maml", seed, a, tested="all test images")
        write(tmp_path / f"b{seed}", "protonet", seed, b, tested="all test images")
    assert compare(*methods(collect([tmp_path]))) == paired(np.array([1, 0.5, 0.5, 1]), np.array([0, 0.5, 0.5, 0.5]))


def test_p_values_are_corrected_for_the_comparisons_of_the_table(tmp_path):
    rng = np.random.default_rng(0)
    for algo, mean in {"anil": 0.5, "maml": 0.53, "protonet": 0.6, "snail": 0.52}.items():
        write(tmp_path / algo, algo, 0, rng.normal(mean, 0.1, 30))
    write(tmp_path / "c", "cavia", 0, [0.5, 0.6, 0.7], tested="others")
    write(tmp_path / "d", "reptile", 0, [0.5, 0.9, 0.8], tested="others")
    text = page(collect([tmp_path]))
    rows = cells(text, "Paired tests")
    assert [(row["best"], row["other"]) for row in rows] == [
        ("reptile", "cavia"),
        ("protonet", "maml"),
        ("protonet", "snail"),
        ("protonet", "anil"),
    ]
    corrected = holm([float(row["p"]) for row in rows])
    assert [float(row["p (Holm)"]) for row in rows] == pytest.approx(corrected, rel=0.1)
    assert min(corrected) > min(float(row["p"]) for row in rows)
    assert "corrected for the 4 comparisons" in text
    assert "The best method was chosen on these very tasks" in " ".join(text.split())


def test_stages_are_compared_by_name(tmp_path):
    write(tmp_path / "a", "maml", 0, [[1.0, 0.5], [0.1, 0.2]], stages=["one", "two"])
    write(tmp_path / "b", "anil", 0, [[0.1, 0.2], [1.0, 0.5]], stages=["two", "one"])
    assert compare(*methods(collect([tmp_path]))).p == 1.0


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_score_that_is_not_finite_is_not_tested(tmp_path, bad):
    write(tmp_path / "a", "maml", 0, [0.5, bad, 0.9])
    write(tmp_path / "b", "anil", 0, [0.6, bad, 0.8])
    assert compare(*methods(collect([tmp_path]))) is None


def test_curves_by_hand(runs):
    maml, _ = methods(collect([runs]))
    updates, seconds, tasks = (learning_curve(maml, axis) for axis in ("updates", "seconds", "tasks"))
    np.testing.assert_allclose(updates.x, [100, 200])
    np.testing.assert_allclose(seconds.x, [10, 20])  # 400 tasks at 40 a second
    np.testing.assert_allclose(tasks.x, [400, 800])
    np.testing.assert_allclose(updates.mean, [55, 60])
    np.testing.assert_allclose(updates.ci95, [12.7062 * 5, 0], atol=1e-3)
    steps = adaptation_curve(maml)
    np.testing.assert_allclose(steps.x, [0, 1, 2])
    np.testing.assert_allclose(steps.mean, [0.5, 10.5, 20.5])


@pytest.fixture
def drawn(monkeypatch):
    """The figures of a page, by the text that stands for them."""
    found = {}

    def image(figure, alt):
        found[alt] = figure
        return ""

    monkeypatch.setattr("metarun.report.page._image", image)
    return found


def test_the_curves_of_a_page(runs, drawn):
    text = page(collect([runs]))
    (alt,) = drawn
    assert alt == "accuracy, % against outer updates, seconds of training, tasks seen, inner steps"
    assert "<h2>Curves: accuracy, %</h2>" in text
    assert "The first" not in text
    panels = {ax.get_xlabel(): ax for ax in drawn[alt].axes}
    assert list(panels) == ["outer updates", "seconds of training", "tasks seen", "inner steps"]
    expected = {  # validation 50 and 60 %, then 60 % of both seeds; 80 and 90 %
        "outer updates": {"maml": [[100, 55], [200, 60]], "protonet": [[100, 80], [200, 90]]},
        "seconds of training": {"maml": [[10, 55], [20, 60]], "protonet": [[10, 80], [20, 90]]},
        "tasks seen": {"maml": [[400, 55], [800, 60]], "protonet": [[400, 80], [800, 90]]},
        "inner steps": {name: [[0, 0.5], [1, 10.5], [2, 20.5]] for name in ("maml", "protonet")},
    }
    for axis, lines in expected.items():
        found = {line.get_label(): np.column_stack(line.get_data()) for line in panels[axis].get_lines()}
        assert found.keys() == lines.keys()
        for name, points in lines.items():
            np.testing.assert_allclose(found[name], points)


def test_methods_beyond_those_that_can_be_told_apart_are_said_to_be_left_out(tmp_path, drawn):
    for i in range(13):
        write(tmp_path / str(i), "maml", 0, [0.5, 0.6], overrides=[f"algo.inner_lr={i:02}"], metrics=curve(0.5, 0.6))
    assert "The first 12 of 13 methods." in page(collect([tmp_path]))
    (figure,) = drawn.values()
    names = [line.get_label() for line in figure.axes[0].get_lines()]
    assert names == [f"maml inner_lr={i:02}" for i in range(12)]


def test_the_matrices_of_a_page(tmp_path, drawn):
    for seed in range(2):
        for cl in ("none", "ewc"):
            write(tmp_path / f"{cl}{seed}", "maml", seed, [[0.5], [0.8]], stages=["one", "two"], overrides=[f"cl={cl}"], cl=cl)
    changed = json.loads((tmp_path / "ewc1/results.json").read_text())
    changed["continual"]["R"] = [[0.4, 0.0], [0.7, 0.1], [0.3, 1.0]]
    (tmp_path / "ewc1/results.json").write_text(json.dumps(changed))
    page(collect([tmp_path]))
    figure = drawn["R of maml"]
    ewc, none, _ = figure.axes
    assert (ewc.get_title(), none.get_title(), ewc.get_ylabel()) == ("ewc", "none", "maml")
    np.testing.assert_allclose(none.get_images()[0].get_array(), [[0.2, 0.2], [0.9, 0.3], [0.5, 0.8]])
    np.testing.assert_allclose(ewc.get_images()[0].get_array(), [[0.3, 0.1], [0.8, 0.2], [0.4, 0.9]])


def test_the_results_of_a_page(runs, drawn):
    write(runs / "d", "reptile", 0, [0.5], status="diverged", stopped="a loss of nan")
    text = page(collect([runs]))
    assert cells(text, "Results") == [
        {
            "method": name,
            "test": mean,
            "over tasks": "± 1.00",
            "seeds": "2",
            "test tasks": "3",
            "batch norm": "support",
            "updates": "300",
            "seconds": "12",
            "device": "cpu",
            "commit": "abc",
        }
        for name, mean in {"maml": "70.00 ± 0.00", "protonet": "76.67 ± 0.00"}.items()
    ]
    assert cells(text, "Runs without a result") == [{"run": str(runs / "d"), "status": "diverged", "why": "a loss of nan"}]


class Looks(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]


def test_the_page_is_one_file_that_needs_no_network(runs, tmp_path):
    write(runs / "d", "ewc<b>", 0, [[0.5, 0.5], [0.8, 0.8]], stages=["one", "two"], overrides=["cl=ewc"])
    write(runs / "e", "reptile", 0, [0.5], status="diverged")
    path = save(collect([runs]), tmp_path / "out" / "report.html")
    text = path.read_text()
    looks = Looks()
    looks.feed(text)
    assert looks.sources
    assert "http:" not in text
    assert "https:" not in text
    assert "<b>" not in text
    for word in ("6 runs", "Paired tests", "Streams: R", "diverged", "70.00", "76.67"):
        assert word in text


def test_two_hundred_runs_take_seconds(tmp_path):
    for i in range(200):
        write(tmp_path / str(i), "maml", i % 5, [0.5, 0.6], overrides=[f"algo.inner_lr={i // 5}"], metrics=curve(0.5, 0.6, 0.7))
    start = time.process_time()
    page(collect([tmp_path]))
    assert time.process_time() - start < 10
