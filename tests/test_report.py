"""`metarun report`, `metarun eval` and a table's sweep, as a user meets them."""

import pytest

from metarun import cli
from metarun.config import ConfigError

SHORT = ("trainer.figures=false", "trainer.tensorboard=false", "trainer.device=cpu")


def test_a_tables_sweep_ends_with_the_table(here, monkeypatch, capsys):
    done = here("-m", "+table=maml_sine", "+paper=maml_sine_5shot", "seed=0,1", "budget=smoke", *SHORT)
    rows = [[part.strip(" `") for part in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("| `")]
    assert [(row[0], row[1], row[7]) for row in rows[:3]] == [("maml", f"step {step}", "short budget") for step in (1, 5, 10)]
    assert {row[0] for row in rows[3:]} == {"finetune"}
    assert "missing" in rows[3]
    assert {path.suffix for path in (here.folder / "outputs/tables").iterdir()} == {".md", ".tex", ".csv", ".png"}
    run = next(here.folder.glob("outputs/maml-sine/*seed0"))

    tested = here("eval", str(run), "data.shots=10", "trainer.test_tasks=5").stdout
    assert "5 test tasks, 10-shot, 5 queries" in tested
    assert "The run itself: mse" in tested

    monkeypatch.chdir(here.folder)
    cli.report(["outputs", "--table", "maml_sine", "--out", "mine"])
    assert rows[0][2] in capsys.readouterr().out
    assert (here.folder / "mine/maml_sine.tex").is_file()
    cli.report(["outputs"])
    assert capsys.readouterr().out == "outputs/report/report.html\n"


def test_mistakes_are_one_line(here):
    assert here("report", "nowhere", status=2).stderr == "metarun: nowhere: no such folder\n"
    assert here("eval", "nowhere", status=2).stderr == "metarun: nowhere: expected the directory of a finished run\n"
    with pytest.raises(ConfigError, match="which run"):
        cli.evaluate([])
