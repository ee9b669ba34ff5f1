"""Tables from made-up run directories, worked by hand."""

import csv
import json
from io import StringIO

import pytest

from metarun.config import CONFIGS, ConfigError
from metarun.report import render, sweeps
from metarun.report.runs import Run, collect
from metarun.report.scores import Measure, mean_of, score
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


def test_streams_beside_published_figures(tmp_path):
    for seed, (none, ewc) in enumerate([(0.5, 0.6), (0.6, 0.62), (0.7, 0.78)]):
        stream(tmp_path, "none", "domain", seed, none)
        stream(tmp_path, "ewc", "domain", seed, ewc)
    stream(tmp_path, "ewc", "class", 0, 0.2)
    stream(tmp_path, "mine", "task", 0, 0.9)
    stream(tmp_path, "none", "class", 0, 0.9, table="other")
    stream(tmp_path, "agem", "class", 1, 0.9, status="interrupted")
    found = lines("split_mnist", tmp_path)
    none, ewc = pick(found, cl="none", scenario="domain"), pick(found, cl="ewc", scenario="domain")
    assert (none["measured"], none["published"], none["gain over none"]) == ("60.00 ± 24.84", "60.13 ± 3.47 ?", "")
    assert (ewc["measured"], ewc["difference"], ewc["gain over none"]) == ("66.67 ± 24.51", "+3.64", "+6.67 ± 10.34")
    assert (ewc["over tasks"], ewc["seeds"], ewc["test tasks"], ewc["commit"], ewc["device"]) == (
        "± 1.00",
        "3",
        "10,000",
        "abc",
        "cpu",
    )
    assert pick(found, cl="ewc", scenario="class")["measured"] == "20.00"
    assert pick(found, cl="mine", scenario="task")["published"] == ""
    missing, stopped = pick(found, cl="none", scenario="class"), pick(found, cl="agem", scenario="class")
    assert (missing["measured"], missing["state"], missing["published"]) == ("missing", "missing", "19.89 ± 0.04 ?")
    assert stopped["state"] == "1 interrupted"
    assert len(found) == 25  # eight methods in three scenarios, and mine


def test_what_a_command_leaves_to_the_default_is_read_from_the_results(tmp_path):
    test, continual = {"accuracy": {"mean": 0.6, "ci95": 0.01, "n_tasks": 10000}}, {"acc": 0.6, "R": [[0.5], [0.6]]}
    said = {"+table": "split_mnist", "data.scenario": "domain", "seed": 0}
    write(tmp_path / "run", said, seed=0, cl="none", test=test, continual=continual)
    assert pick(lines("split_mnist", tmp_path), cl="none", scenario="domain")["measured"] == "60.00"


def test_rows_of_papers_by_budget(tmp_path):
    full, short = {"name": "full", "share": 1.0}, {"name": "short", "share": 0.05}
    for seed, mean in enumerate([0.98, 0.99, 0.985]):
        paper(tmp_path, "maml_omniglot_5way_1shot", seed, mean, budget=full)
    paper(tmp_path, "maml_omniglot_5way_1shot", 0, 0.91, budget=short)
    paper(tmp_path, "maml_omniglot_5way_1shot", 0, 0.95, budget=short, changed={"budget.share": 0.05})
    paper(tmp_path, "maml_omniglot_5way_1shot", 0, 0.96, budget=short, changed={"budget.operations": 300000000000.0})
    paper(tmp_path, "maml_omniglot_20way_1shot", 0, 0.958)  # made before there were budgets: all of it
    paper(tmp_path, "maml_omniglot_20way_1shot", 0, 0.2, changed={"algo.inner_lr": 9, "trainer.threads": 1})
    paper(tmp_path, "protonet_omniglot_5way_1shot", 0, 0.9)
    write(tmp_path / "bad", {"+paper": "maml_omniglot_5way_5shot", "seed": 1}, status="failed", stopped="no\nspace left")
    found = lines("maml_omniglot", tmp_path)
    cells = {"5way_1shot": 4, "5way_5shot": 1, "20way_1shot": 2, "20way_5shot": 1}
    assert [line["cell"] for line in found] == [cell for cell, count in cells.items() for _ in range(count)]
    first = pick(found, cell="5way_1shot", budget="full")
    assert (first["measured"], first["published"], first["verdict"]) == ("98.50 ± 1.24", "98.7 ± 0.4", "inconclusive")
    assert (first["margin"], first["seeds wanted"], first["difference"]) == ("± 0.4", "19", "-0.20")
    assert (first["seeds"], first["batch norm"], first["updates"]) == ("3", "transductive", "100")
    short_of = pick(found, cell="5way_1shot", budget="short")
    assert (short_of["verdict"], short_of["difference"], short_of["seeds wanted"]) == ("short budget", "-7.70", "")
    assert pick(found, cell="5way_1shot", budget="short share=0.05")["verdict"] == "short budget"
    assert pick(found, cell="5way_1shot", budget="short operations=3e+11")["verdict"] == "short budget"
    assert pick(found, cell="5way_5shot")["measured"] == "1 failed (no space left)"
    assert pick(found, cell="20way_1shot", changed="")["verdict"] == "inconclusive"  # one seed
    assert pick(found, cell="20way_1shot", changed="algo.inner_lr=9")["verdict"] == "other protocol"
    assert pick(found, cell="20way_5shot")["state"] == "missing"


def test_a_row_for_each_published_step(tmp_path):
    by_step = [{"step": step, "mean": mean, "ci95": 0.02} for step, mean in ((0, 3.0), (1, 0.69), (5, 0.9), (10, None))]
    test = {"mse": {"mean": None, "ci95": None, "n_tasks": 6000}, "by_step": by_step}
    write(tmp_path / "run", {"+paper": "maml_sine_5shot", "seed": 0}, seed=0, test=test)
    found = lines("maml_sine", tmp_path)
    assert [(line["evaluated at"], line["measured"], line["verdict"]) for line in found[:3]] == [
        ("step 1", "0.690", "inconclusive"),
        ("step 5", "0.900", "inconclusive"),
        ("step 10", "not finite", "not finite"),
    ]


def merit(path, said, seed, R, metric="mse", **more):
    continual = {"R": R, "online": None, "acc": sum(R[-1]) / len(R[-1]), "bwt": -0.5, "forgetting": 0.5, **more}
    write(
        path / "-".join(map(str, (*said.values(), seed))), {"seed": seed, **said}, seed=seed, test={metric: {}}, continual=continual
    )


def test_figures_of_merit_of_streams(tmp_path):
    fixed = {"trainer.iterations": 1500, "algo.test_steps": 3}  # the first is the table's, the second is not
    none, ewc = (
        {"+table": "continual_meta", "data": "sine", "algo": "maml", "cl": cl, "data.stage_by": "phase", **fixed}
        for cl in ("none", "ewc")
    )
    for seed, last in enumerate([1.0, 3.0]):
        merit(tmp_path, none, seed, [[4.0, 4.0], [1.0, 4.0], [3.0, last]])
    merit(tmp_path, ewc, 0, [[4.0, 4.0], [1.0, 4.0], [2.0, 2.0]])
    found = lines("continual_meta", tmp_path)
    assert list(found[0])[:8] == ["data", "algo", "stage_by", "cl", "acc", "bwt", "forgetting", "last stage"]
    assert len(found) == 30  # both grids, fifteen each
    first = pick(found, cl="none", stage_by="phase")
    assert (first["changed"], pick(found, cl="none", algo="protonet")["state"]) == ("algo.test_steps=3", "missing")
    assert (first["acc"], first["bwt"], first["last stage"]) == ("2.500 ± 6.353", "-0.500 ± 0.000", "2.000 ± 12.706")
    assert pick(found, cl="ewc", stage_by="phase")["acc"] == "2.000"
    assert pick(found, cl="joint", stage_by="x")["state"] == "missing"


def test_accuracies_are_in_per_cent_and_online_scores_shown(tmp_path):
    said = {"+table": "continual_meta", "data": "omniglot", "algo": "maml", "cl": "none", "data.train_ways": "null"}
    merit(tmp_path, said, 0, [[0.2, 0.2], [0.5, 0.75]], "accuracy", online={"accuracy": 0.625})
    first = pick(lines("continual_meta", tmp_path), data="omniglot", algo="maml", cl="none")
    assert (first["last stage"], first["online"], "changed" in first) == ("75.00", "62.50", False)


def test_scores_by_length(tmp_path):
    for algo, means in {"oml": (0.9, 0.5), "scratch": (0.5, 0.1)}.items():
        rows = [{"length": n, "mean": mean, "ci95": None} for n, mean in zip((10, 50), means, strict=True)]
        test = {"accuracy": {"mean": means[-1], "n_tasks": 5}, "by_length": rows}
        write(tmp_path / algo, {"+table": "oml", "algo": algo, "seed": 0}, seed=0, test=test)
    found = lines("oml", tmp_path)
    assert [(line["length 10"], line["length 50"]) for line in found] == [("90.00", "50.00"), ("", ""), ("50.00", "10.00")]


def test_the_files(tmp_path):
    paper(tmp_path / "runs", "maml_omniglot_5way_1shot", 0, 0.98)
    written = render.save(make("maml_omniglot", collect([tmp_path / "runs"])), tmp_path / "out")
    assert [path.name for path in written] == [f"maml_omniglot.{ending}" for ending in ("md", "tex", "csv", "png")]
    first, *_ = csv.DictReader(StringIO((tmp_path / "out/maml_omniglot.csv").read_text()))
    cells = ("measured", "published", "published ci95", "margin", "verdict", "seeds wanted")
    assert [first[cell] for cell in cells] == ["98", "98.7", "0.4", "0.4", "inconclusive", "3 or more"]
    latex = (tmp_path / "out/maml_omniglot.tex").read_text()
    assert r"\texttt{5way\_1shot} & $98.00$ & $\pm$ 0.50 & $98.7 \pm 0.4$ & $-0.70$ & $\pm$ 0.4 & inconclusive" in latex
    assert latex.count(r"\\") == 5
    assert (tmp_path / "out/maml_omniglot.png").read_bytes().startswith(b"\x89PNG")
    assert "Published: Finn, Abbeel and Levine" in (tmp_path / "out/maml_omniglot.md").read_text()


def test_the_picture_of_a_table_with_published_figures(tmp_path):
    for seed, mean in enumerate([0.98, 0.99, 0.985]):
        paper(tmp_path, "maml_omniglot_5way_1shot", seed, mean)
    paper(tmp_path, "maml_omniglot_20way_1shot", 0, 0.9, budget={"name": "short", "share": 0.1})
    (ax,) = render.picture(make("maml_omniglot", collect([tmp_path]))).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["maml omniglot 5way_1shot", "maml omniglot 20way_1shot (short)"]
    assert ax.get_xlabel() == "accuracy, %, 95 % interval"
    points = [(container[0].get_xdata()[0], container[2][0].get_segments()[0]) for container in ax.containers]
    means = [x for x, _ in points]  # published, measured, and the same at 20 ways
    assert means == pytest.approx([98.7, 98.5, 95.8, 90.0])
    half = [(segment[1][0] - segment[0][0]) / 2 for _, segment in points]
    assert half == pytest.approx([0.4, 1.242, 0.3, 0.5], abs=1e-3)  # the last over tasks, as there is one seed
    assert ax.get_legend_handles_labels()[1] == ["published", "measured"]


def test_the_picture_of_a_table_of_streams_is_its_matrices(tmp_path):
    said = {"+table": "continual_meta", "data": "sine", "algo": "maml", "data.stage_by": "phase"}
    merit(tmp_path, {**said, "cl": "none"}, 0, [[4.0, 4.0], [1.0, 4.0], [3.0, 1.0]])
    merit(tmp_path, {**said, "cl": "none"}, 1, [[2.0, 4.0], [1.0, 2.0], [1.0, 3.0]])
    merit(tmp_path, {**said, "cl": "ewc"}, 0, [[4.0, 4.0], [1.0, 4.0], [2.0, 2.0]])
    table = make("continual_meta", collect([tmp_path]))
    first, second, bar = render.picture(table).axes
    assert {first.get_title(), second.get_title()} == {"none", "ewc"}
    by_name = {ax.get_title(): ax.get_images()[0].get_array().tolist() for ax in (first, second)}
    assert by_name == {"none": [[3.0, 4.0], [1.0, 3.0], [2.0, 2.0]], "ewc": [[4.0, 4.0], [1.0, 4.0], [2.0, 2.0]]}
    assert bar.get_ylabel() == "mse"
    assert render.picture(make("continual_meta", [])) is None


def test_mistakes_are_said(tmp_path):
    with pytest.raises(ConfigError, match=r"table=split_mnits: no such table; did you mean split_mnist\?"):
        make("split_mnits", [])
    with pytest.raises(ConfigError, match="expected a run directory"):
        collect([tmp_path])
    with pytest.raises(ConfigError, match="no such folder"):
        collect([tmp_path / "none"])


def test_means_by_hand():
    assert mean_of([], 2) == ""
    assert mean_of([1.0, None], 2) == ""
    assert mean_of([1.0, 3.0], 2) == Measure(2.0, pytest.approx(12.706, abs=1e-3), 2)
    assert Measure(-1.25, None, 2, "+").text() == "-1.25"


def test_every_cell_of_every_table_is_a_choice():
    for name in sweeps.names():
        for grid in sweeps.read(name).grids:
            for group, values in grid.items():
                if (CONFIGS / group).is_dir():
                    for value in values:
                        assert (CONFIGS / group / f"{value}.yaml").is_file(), (name, value)


NOTES = [
    "Measured: mean over seeds with its 95 % interval (Student's t, n - 1); over tasks: the interval over test tasks within a"
    " seed.",
    "Reproduced: under the full protocol, the interval over seeds is wholly within the margin of the published value; better or"
    " worse: wholly outside; inconclusive: neither, or fewer than three seeds. Seeds wanted: the number of seeds for which a method"
    " whose true mean is the published value is reproduced with a probability of 80 %.",
    "Margin: the largest of the published 95 % interval, half its last printed digit, and a quarter of 100 - value but at most 1.5"
    " points; for a mean squared error, a tenth of the value. A question mark: not read in the paper itself.",
    "Published: Finn, Abbeel and Levine, Model-agnostic meta-learning for fast adaptation of deep networks, ICML 2017, table 2"
    " (read in the paper): 600 test tasks; the released code's inner rate is 0.001, the text's 0.01; how pre-training was tuned"
    " is not stated",
]


@pytest.fixture
def sine(tmp_path):
    """Two seeds of MAML, one cut short and changed, and pre-training that did not get far."""
    for seed, (one, five) in enumerate([(0.6, 0.4), (0.7, 0.38)]):
        by_step = [{"step": 1, "mean": one, "ci95": 0.02}, {"step": 5, "mean": five, "ci95": None}]
        test = {"mse": {"mean": 0.3, "ci95": 0.01, "n_tasks": 6000}, "by_step": by_step}
        write(tmp_path / f"m{seed}", {"+paper": "maml_sine_5shot", "seed": seed}, seed=seed, test=test)
    test = {"mse": {"mean": 0.3, "ci95": 0.01, "n_tasks": 20}, "by_step": [{"step": 1, "mean": 2.0, "ci95": 0.5}]}
    said = {"+paper": "maml_sine_5shot", "seed": 0, "budget": "smoke", "algo.inner_lr": 0.1}
    write(tmp_path / "s", said, seed=0, test=test, budget={"name": "smoke", "share": 0.001}, protocol={"batch_norm": None})
    write(tmp_path / "f", {"+paper": "finetune_sine_5shot", "seed": 0}, status="diverged", stopped="at update 3")
    return make("maml_sine", collect([tmp_path]))


def test_the_whole_text_of_a_table(sine):
    heads = [
        "algo",
        "evaluated at",
        "measured",
        "over tasks",
        "published",
        "difference",
        "margin",
        "verdict",
        "seeds",
        "seeds wanted",
    ]
    heads += ["state", "test tasks", "updates", "budget", "changed", "commit", "device"]
    full, smoke, empty = ["6,000", "100", "full", "", "abc", "cpu"], ["20", "100", "smoke", "`algo.inner_lr=0.1`", "abc", "cpu"], ""
    stopped = "1 diverged (at update 3)"
    rows = [
        ["0.650 ± 0.635", "± 0.020", "0.67", "-0.020", "± 0.067", "inconclusive", "2", "14", "", *full],
        ["0.390 ± 0.127", "", "0.38", "+0.010", "± 0.038", "inconclusive", "2", "4", "", *full],
        ["", "", "0.35", "", "± 0.035", "", "2", "", "", *full],
        ["2.000", "± 0.500", "0.67", "+1.330", "± 0.067", "other protocol", "1", "", "", *smoke],
        ["", "", "0.38", "", "± 0.038", "", "1", "", "", *smoke],
        ["", "", "0.35", "", "± 0.035", "", "1", "", "", *smoke],
        *([stopped, "", value, *[empty] * 5, stopped, "", "", "full", "", "", ""] for value in ("2.41", "2.23", "2.19")),
    ]
    cells = [(algo, step) for algo in ("maml", "maml", "finetune") for step in (1, 5, 10)]
    lines = [heads, ["---"] * 17, *([f"`{algo}`", f"`step {step}`", *row] for (algo, step), row in zip(cells, rows, strict=True))]
    assert render.markdown(sine).splitlines() == [
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
        *(f"- {note}" for note in NOTES),
    ]
    assert sine.title == "MAML on sine waves against pre-training (Finn et al. 2017, table 2)"


def test_the_whole_tabular(sine):
    lines = render.latex(sine).splitlines()
    assert lines[:6] == [f"% {sine.title}", *(f"% {note}" for note in NOTES), r"\begin{tabular}{lllllllllllllllll}"]
    assert lines[6] == r"\toprule"
    assert lines[7].startswith(r"algo & evaluated at & measured & over tasks & published & difference & margin & verdict & seeds")
    assert lines[8] == r"\midrule"
    assert lines[9] == (
        r"\texttt{maml} & \texttt{step 1} & $0.650 \pm 0.635$ & $\pm$ 0.020 & $0.67$ & $-0.020$ & $\pm$ 0.067 & inconclusive"
        r" & 2 & 14 &  & 6,000 & 100 & full &  & abc & cpu \\"
    )
    assert r" & smoke & \texttt{algo.inner\_lr=0.1} & abc & cpu \\" in lines[12]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert render.latex(sine).endswith("\\end{tabular}\n")


def test_what_latex_would_read_is_escaped():
    assert render._latex("50 % of A_B & C #1, ± 2 \\") == r"50 \% of A\_B \& C \#1, $\pm$ 2 \textbackslash{}"
    assert render._latex("`a_b` and `c`") == r"\texttt{a\_b} and \texttt{c}"
    assert render._latex(Measure(98.7, 0.4, 1, mark=" ?")) == r"$98.7 \pm 0.4$ ?"


def test_the_whole_csv(sine):
    first, *rows = render.csv(sine).splitlines()
    assert first == (
        "algo,evaluated at,measured,measured ci95,over tasks,published,published ci95,difference,difference ci95,margin,verdict,"
        "seeds,seeds wanted,state,test tasks,updates,budget,changed,commit,device"
    )
    assert rows[0] == 'maml,step 1,0.65,0.63531,0.020,0.67,,-0.02,,0.067,inconclusive,2,14,,"6,000",100,full,,abc,cpu'
    assert rows[2] == 'maml,step 10,,,,0.35,,,,0.035,,2,,,"6,000",100,full,,abc,cpu'
    assert rows[3] == "maml,step 1,2,,0.500,0.67,,1.33,,0.067,other protocol,1,,,20,100,smoke,algo.inner_lr=0.1,abc,cpu"
    assert rows[6].startswith("finetune,step 1,1 diverged (at update 3),,,2.41,")
    assert render.csv(sine).endswith("\n")
    assert "\r" not in render.csv(sine)


def test_the_picture_of_errors_names_them(sine):
    (ax,) = render.picture(sine).axes
    assert ax.get_xlabel() == "mean squared error, 95 % interval"
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["maml sine 5shot step 1", "maml sine 5shot step 5", "maml sine 5shot step 1 (smoke) algo.inner_lr=0.1"]


def test_a_table_without_published_figures_has_no_notes(tmp_path):
    said = {"+table": "orders", "trainer.order": "random", "algo": "maml", "data": "sine"}
    merit(tmp_path, said, 0, [[4.0, 4.0], [1.0, 4.0], [3.0, 1.0]])
    table = make("orders", collect([tmp_path]))
    assert table.notes == []
    assert render.markdown(table).splitlines()[-1].startswith("| `active` | ")  # and no empty line after it
    (tmp_path / "out").mkdir()
    assert render.save(table, tmp_path / "out")[0].read_text() == render.markdown(table) + "\n"


def test_the_later_folder_of_a_seed_counts(tmp_path):
    """A finished run before one that is not; of two finished ones the last by name."""
    for name, mean, status in (("a", 0.9, "finished"), ("b", 0.95, "finished"), ("c", 0.1, "interrupted")):
        test = {"accuracy": {"mean": mean, "ci95": 0.01, "n_tasks": 600}}
        write(tmp_path / name, {"+paper": "maml_omniglot_5way_1shot", "seed": 0}, status=status, seed=0, test=test)
    line = pick(lines("maml_omniglot", tmp_path), cell="5way_1shot")
    assert (line["measured"], line["seeds"], "state" in line) == ("95.00", "1", True)
    assert line["state"] == ""


def test_intervals_over_tasks_are_those_of_the_figure_itself():
    test = {
        "mse": {"mean": 0.5, "ci95": 0.1},
        "by_step": [{"step": 3, "mean": None, "ci95": None}, {"step": 5, "mean": 1, "ci95": 2}],
    }
    stream = {"acc": 0.5, "bwt": -0.25, "R": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "online": None}
    run = Run(CONFIGS, {"test": test, "continual": stream}, {})
    found = {name: score(run, name) for name in ("test", "step 5", "step 4", "acc", "bwt", "last stage", "online", "forgetting")}
    assert found == {
        "test": (0.5, 0.1),
        "step 5": (1, 2),
        "step 4": (None, None),
        "acc": (0.5, 0.1),
        "bwt": (-0.25, None),
        "last stage": (6.0, None),
        "online": (None, None),
        "forgetting": (None, None),
    }
    assert str(score(run, "step 3")[0]) == "nan"
    plain = Run(CONFIGS, {"test": {"accuracy": {"mean": 0.5, "ci95": None}}}, {})
    assert score(plain, "test") == (50.0, None)
    assert score(plain, "last stage") == score(plain, "length 5") == score(plain, "acc") == (None, None)
