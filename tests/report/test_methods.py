"""Methods: runs of one configuration under one name."""

from page_runs import write

from metarun.report.methods import methods
from metarun.report.runs import collect


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


def test_names_of_data_are_told_where_there_are_several(tmp_path):
    for name, data in (("a", "omniglot"), ("b", "cifarfs"), ("c", "omniglot")):
        write(tmp_path / name, "maml", 1, [0.5], overrides=[f"data={data}", "data.name=a=b"] if name != "c" else [], data=data)
    names = [method.name for method in methods(collect([tmp_path]))]
    assert names == ["cifarfs", "omniglot", "omniglot name=a=b"]  # of one algorithm, which goes without saying
