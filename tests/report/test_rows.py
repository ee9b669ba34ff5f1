"""Rows: which runs belong to which cell, by budget, changes and seed."""

from table_runs import lines, paper, pick, write


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


def test_the_later_folder_of_a_seed_counts(tmp_path):
    """A finished run before one that is not; of two finished ones the last by name."""
    for name, mean, status in (("a", 0.9, "finished"), ("b", 0.95, "finished"), ("c", 0.1, "interrupted")):
        test = {"accuracy": {"mean": mean, "ci95": 0.01, "n_tasks": 600}}
        write(tmp_path / name, {"+paper": "maml_omniglot_5way_1shot", "seed": 0}, status=status, seed=0, test=test)
    line = pick(lines("maml_omniglot", tmp_path), cell="5way_1shot")
    assert (line["measured"], line["seeds"], "state" in line) == ("95.00", "1", True)
    assert line["state"] == ""
