"""The page that compares runs, from made-up run directories."""

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from metarun.metric import ACCURACY, MSE
from metarun.report.comparison import compare, rank
from metarun.report.curves import _clock, adaptation_curve, learning_curve
from metarun.report.methods import methods
from metarun.report.page import Image, Listing, _listing, _probability, page, save
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
        "b updates=300",  # made, in place of those that were asked for
        "c budget=full share=0.5",
        "d",
        "d amplitude=[1.0, 2.0]",
    ]


def test_a_name_has_no_algorithm_and_data_twice_and_values_whole(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5], overrides=["data=omniglot", "data.name=a=b"])
    write(tmp_path / "b", "maml", 0, [0.5])
    (tmp_path / "b/.hydra/overrides.yaml").write_text('["+paper=maml_omniglot_5way_1shot"]')  # which chooses both
    found = [method.name for method in methods(collect([tmp_path]))]
    assert found == ["maml name=a=b", "maml paper=maml_omniglot_5way_1shot"]


def test_of_two_runs_of_one_seed_the_later_folder_counts_in_whatever_order_they_are_given(tmp_path):
    for name in "ab":
        write(tmp_path / name, "maml", 0, [0.5])
    for order in ("ab", "ba"):
        (method,) = methods(collect([tmp_path / name for name in order]))
        assert [run.path.name for run in method.runs] == ["b"]


def test_a_budget_that_no_command_says_is_in_the_name(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5], budget={"name": "smoke", "share": 0.001})
    write(tmp_path / "b", "maml", 0, [0.5], overrides=["budget=full"], budget={"name": "full", "share": 1.0})
    assert [method.name for method in methods(collect([tmp_path]))] == ["maml", "maml budget=smoke"]


def test_updates_that_differ_on_the_same_data_are_in_every_name(tmp_path):
    made = {"maml": 300, "reptile": 100, "linear": 0}  # as each has them by default; one is not trained
    for algo, updates in made.items():
        write(tmp_path / algo, algo, 0, [0.5], train={"iterations": updates, "seconds": 1.0})
    write(tmp_path / "sine", "maml", 0, [0.5], data="sine", train={"iterations": 200, "seconds": 1.0})
    assert [method.name for method in methods(collect([tmp_path]))] == [
        "linear omniglot",
        "maml omniglot updates=300",
        "maml sine",
        "reptile omniglot updates=100",
    ]
    assert [method.name for method in methods(collect([tmp_path / "maml", tmp_path / "linear"]))] == ["linear", "maml"]


def test_seeds_of_one_command_with_other_updates_are_two_methods(tmp_path):
    for seed, updates in enumerate((300, 200)):  # the default was another
        write(tmp_path / str(seed), "maml", seed, [0.5], train={"iterations": updates, "seconds": 1.0})
    assert [(method.name, len(method.runs)) for method in methods(collect([tmp_path]))] == [
        ("maml updates=200", 1),
        ("maml updates=300", 1),
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


def test_the_runs_of_a_paired_test_are_those_on_shared_tasks(runs):
    write(runs / "b2", "protonet", 2, [0.0, 0.0, 0.0])  # its test tasks are in no run of the other
    (row,) = cells(page(collect([runs])), "Paired tests")
    assert (row["best"], row["runs"]) == ("maml", "2 and 2")


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
    assert "come from an older version" in text
    assert "paired tests: <code>maml</code>. Use <code>metarun eval RUN</code>" in " ".join(text.split())
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
    assert "The best method was selected on these same tasks" in " ".join(text.split())


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
        return Image(alt, "")

    monkeypatch.setattr("metarun.report.page._image", image)
    return found


def test_the_curves_of_a_page(runs, drawn):
    text = page(collect([runs]))
    (alt,) = drawn
    assert alt == "accuracy, % against outer updates, seconds of training, tasks seen, inner steps"
    assert "<h2>Curves: accuracy, %</h2>" in text
    assert "Only the first" not in text
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
    assert "Only the first 12 of 13 methods are shown." in page(collect([tmp_path]))
    (figure,) = drawn.values()
    names = [line.get_label() for line in figure.axes[0].get_lines()]
    assert names == [f"maml inner_lr={i:02}" for i in range(12)]
    assert "Only the first" not in page(collect([tmp_path / str(i) for i in range(12)]))


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


def errors(path, algo, seed, scores, **more):
    """A run of a regression: mean squared errors (tasks,), by step 1.0, 0.5 and 0.25; of one task the first alone."""
    scores = np.array(scores, np.float64)
    test = {"mse": {"mean": float(scores.mean()), "ci95": None if len(scores) == 1 else 0.125, "n_tasks": len(scores)}}
    test["by_step"] = [{"step": step, "mean": 0.5**step} for step in range(3)] if len(scores) > 1 else [{"step": 0, "mean": 1.0}]
    environment = {"device": f"cuda {seed}", "git": None if seed else "abc"}
    protocol = {"batch_norm": None, "train": {"tasks": 25}}
    metrics = [{"step": 100, "train/loss": 1.0}, {"step": 100, "val/mse": 2.0}, {"step": 200, "val/mse": 1.5}]
    write(path, algo, seed, scores, test=test, environment=environment, protocol=protocol, metrics=metrics, **more)


def test_the_whole_page_of_errors(tmp_path, drawn):
    for seed in range(2):
        errors(tmp_path / f"a{seed}", "maml", seed, [0.5, 0.75, 1.0 + seed])
        errors(tmp_path / f"b{seed}", "cnp", seed, [0.25, 0.5, 0.25])
    errors(tmp_path / "c", "anil", 0, [0.5], tested="others")
    text = page(collect([tmp_path]))
    rows = {row["method"]: row for row in cells(text, "Results")}
    assert (rows["maml"]["test"], rows["maml"]["over tasks"]) == ("0.917 ± 2.118", "± 0.125")  # 0.75 and 1.083
    assert (rows["anil"]["test"], rows["anil"]["over tasks"]) == ("0.500", "")
    assert "batch norm" not in rows["maml"]
    assert (rows["maml"]["device"], rows["maml"]["commit"]) == ("cuda 0, cuda 1", "abc")
    expected = paired(np.array([0.25, 0.5, 0.25] * 2), np.array([0.5, 0.75, 1.0, 0.5, 0.75, 2.0]))
    (row,) = cells(text, "Paired tests")
    assert (row["best"], row["other"], row["runs"]) == ("cnp", "maml", "2 and 2")  # the smaller error is the better
    assert row["difference"] == f"{expected.difference:+.3f} ± {expected.ci95:.3f}"
    (alt,) = drawn
    assert alt == "mean squared error against outer updates, tasks seen, inner steps"  # no speed was logged
    updates, tasks, steps = drawn[alt].axes[:3]
    assert updates.get_ylabel() == "mean squared error"
    assert {line.get_label(): line.get_ydata().tolist() for line in steps.get_lines()} == {
        "maml": [1, 0.5, 0.25],
        "cnp": [1, 0.5, 0.25],
    }
    assert {line.get_label(): np.column_stack(line.get_data()).tolist() for line in tasks.get_lines()}["anil"] == [
        [2500, 2.0],
        [5000, 1.5],
    ]


def test_the_paragraphs_of_a_page(tmp_path, drawn):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7, 0.9], metrics=curve(0.5))
    write(tmp_path / "b", "anil", 0, [0.6, 0.9, 0.9])
    write(tmp_path / "c", "cnp", 0, [0.6, 0.9, 0.8], tested=None)
    write(tmp_path / "d", "oml", 0, [[0.5, 0.5], [0.8, 0.8]], stages=["one", "two"], tested="others")
    write(tmp_path / "e", "reptile", 0, [0.5], status="failed")
    text = page(collect([tmp_path]))
    assert text.startswith(
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        "<title>metarun: 5 runs</title>\n<style>"
    )
    assert text.endswith('<img alt="R of oml" src="data:image/png;base64,">\n\n</html>\n')
    body = re.sub("<table>.*?</table>", "", text.partition("</style>")[2], flags=re.S)
    assert re.findall("<h.>.*?</h.>", body) == [
        "<h1>5 runs, 4 methods</h1>",
        "<h2>Results</h2>",
        "<h2>Runs without a result</h2>",
        "<h2>Paired tests</h2>",
        "<h2>Curves: accuracy, %</h2>",
        "<h2>Streams: R</h2>",
    ]
    paragraphs = re.findall("<p>(.*?)</p>", " ".join(body.split()))
    assert [paragraph.strip() for paragraph in paragraphs] == [
        "Scores: accuracy, %; for a stream, the mean over its stages after the last one. Means over seeds with 95 % intervals"
        " (Student's t); over tasks: the interval over test tasks within a seed.",
        "The best method against each other method tested on the same tasks: the mean of the task-by-task differences with its"
        " 95 % interval, and a two-sided paired t test. The best method was selected on these same tasks, which biases the"
        " comparison in its favour. The tests compare these trained models, not retrainings of them; the interval over seeds"
        " above shows the variation between trainings.",
        "Some runs of the following methods come from an older version that did not record the test tasks, and are excluded from"
        " paired tests: <code>cnp</code>. Use <code>metarun eval RUN</code> to test such a run again and record its tasks.",
        "Validation scores by updates, time and tasks; test scores by inner step. Bands: 95 % intervals over seeds.",
        "Rows: the untrained learner, then after each stage; columns: stages. Means over seeds.",
    ]
    assert cells(text, "Runs without a result") == [{"run": str(tmp_path / "e"), "status": "failed"}]


def test_a_table_of_a_page():
    assert _listing(["a", "b", "c"], [["1", "", "2"], ["3", "", ""]]) == Listing(["a", "c"], [["1", "2"], ["3", ""]])


def test_every_text_of_a_page_is_escaped(tmp_path, drawn):
    """Also in the places of a name, a path, a reason, a device, a commit and a metric."""
    bad = "<script>&\"'"
    environment = {"device": bad, "git": bad}
    metric = {"name": "mae", "label": bad}
    test = {"mae": {"mean": 0.5, "ci95": 0.1, "n_tasks": 2}, "by_step": [{"step": 0, "mean": 1.0}, {"step": 1, "mean": 0.5}]}
    for name in "ab":
        write(tmp_path / name, f"{bad}{name}", 0, [0.5, 0.6], environment=environment, metric=metric, test=test)
    write(tmp_path / f"{bad}c".replace("/", ""), "c", 0, [0.5], status=bad, stopped=bad)
    text = page(collect([tmp_path]))
    assert "<script" not in text
    assert text.count("&lt;script&gt;&amp;&#34;&#39;") >= 10


def test_probabilities_in_two_digits():
    assert [_probability(p) for p in (0.0, 5e-324, 0.0344, 1.0)] == ["< 1e-300", "4.9e-324", "0.034", "1"]


def test_two_comparisons_are_corrected_and_one_is_not(tmp_path, drawn):
    said = []
    for number, name in enumerate(("maml", "anil", "cnp")):
        write(tmp_path / name, name, 0, [0.5, 0.6 + number / 10])
        said.append("p (Holm) is corrected for the 2 comparisons in the table." in " ".join(page(collect([tmp_path])).split()))
    assert said == [False, False, True]


def test_the_best_comes_first_and_what_is_not_finite_last():
    values = {"good": [0.5, 1.0], "better": [0.25, 0.5], "lost": [None, 0.1], "nan": [float("nan")], "wild": [float("inf"), 0.0]}
    assert sorted(values, key=lambda name: rank(values[name], MSE)) == ["better", "good", "lost", "nan", "wild"]
    assert sorted(values, key=lambda name: rank(values[name], ACCURACY)) == ["good", "better", "lost", "nan", "wild"]


def test_a_single_task_and_unlike_numbers_of_them_are_not_compared(tmp_path):
    for name, tasks in (("a", 1), ("b", 1), ("c", 2), ("d", 2), ("e", 3)):
        write(tmp_path / name, name, 0, [0.5, 0.7, 0.9][:tasks], tested="the same")
    found = dict(zip("abcde", methods(collect([tmp_path])), strict=True))
    assert compare(found["a"], found["b"]) is None
    assert compare(found["c"], found["d"]).df == 1
    assert compare(found["c"], found["e"]) is None


def test_a_run_with_unreadable_scores_is_not_compared_either_way(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7])
    write(tmp_path / "b", "anil", 0, [0.5, 0.9])
    (tmp_path / "b/test.npz").unlink()
    anil, maml = methods(collect([tmp_path]))
    assert compare(anil, maml) is None
    assert compare(maml, anil) is None


def test_curves_need_points_and_streams_have_none(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7])
    write(tmp_path / "b", "oml", 0, [[0.5], [0.8]], stages=["one", "two"], metrics=curve(0.5, 0.6))
    write(tmp_path / "c", "anil", 0, [0.5, 0.7], metrics=[{"step": 100, "val/accuracy": 0.5}])  # no speed logged
    write(tmp_path / "d", "cnp", 0, [0.5, 0.7], metrics=curve(0.5, 0.6, 0.7))
    found = {method.name: method for method in methods(collect([tmp_path]))}
    axes = ("updates", "seconds", "tasks")
    assert [learning_curve(found["maml"], axis) for axis in axes] == [None, None, None]
    assert [learning_curve(found["oml"], axis) for axis in axes] == [None, None, None]
    assert [learning_curve(found["anil"], axis) is None for axis in axes] == [False, True, False]
    np.testing.assert_allclose(learning_curve(found["cnp"], "seconds").x, [10, 20, 30])


def test_two_steps_are_a_curve_and_one_is_none(tmp_path):
    for name, steps in (("a", 0), ("b", 1), ("c", 2)):
        by_step = [{"step": step, "mean": 0.5} for step in range(steps)]
        test = {"accuracy": {"mean": 0.5, "ci95": None, "n_tasks": 2}} | ({"by_step": by_step} if steps else {})
        write(tmp_path / name, name, 0, [0.5, 0.5], test=test)
    none, one, two = methods(collect([tmp_path]))
    assert adaptation_curve(none) is adaptation_curve(one) is None
    assert adaptation_curve(two).x.tolist() == [0, 1]


def test_training_starts_at_no_seconds():
    """Between the untrained learner and the first speed that was logged, the clock goes evenly."""
    seconds = _clock([(100, 40.0), (200, 20.0)], 4)
    assert [seconds(step) for step in (0, 50, 100, 150, 200)] == [0, 5, 10, 25, 40]


def test_names_of_data_are_told_where_there_are_several(tmp_path):
    for name, data in (("a", "omniglot"), ("b", "cifarfs"), ("c", "omniglot")):
        write(tmp_path / name, "maml", 1, [0.5], overrides=[f"data={data}", "data.name=a=b"] if name != "c" else [], data=data)
    names = [method.name for method in methods(collect([tmp_path]))]
    assert names == ["cifarfs", "omniglot", "omniglot name=a=b"]  # of one algorithm, which goes without saying
