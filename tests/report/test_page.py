"""The page that compares runs, from made-up run directories."""

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from page_runs import cells, curve, errors, write

from metarun.report.page import Image, Listing, _listing, _probability, page, save
from metarun.report.runs import collect
from metarun.report.statistics import holm, paired


def test_the_runs_of_a_paired_test_are_those_on_shared_tasks(runs):
    write(runs / "b2", "protonet", 2, [0.0, 0.0, 0.0])  # its test tasks are in no run of the other
    (row,) = cells(page(collect([runs])), "Paired tests")
    assert (row["best"], row["runs"]) == ("maml", "2 and 2")


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
