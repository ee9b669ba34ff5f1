"""A table as Markdown, LaTeX, CSV and a picture."""

import csv
from io import StringIO

import pytest
from table_runs import merit, paper, write

from metarun.report import render
from metarun.report.runs import collect
from metarun.report.scores import Measure
from metarun.report.table import make

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
