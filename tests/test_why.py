"""`metarun why KEY`: the layers that set a key are those that Hydra merged, and the last one is the value of the run."""

import re
import textwrap
from contextlib import chdir

import pytest
from omegaconf import OmegaConf

from metarun.choices import compose
from metarun.config import CONFIGS
from metarun.why import why


def rows(text):
    """(value, source) of each line."""
    return [tuple(line.strip().split("  ", 1)) for line in text.splitlines()]


def test_the_layers_of_an_inner_rate(here):
    found = rows(here("why", "algo.inner_lr", "algo=maml", "data=omniglot").stdout)
    assert [value for value, _ in found] == ["0.01", "0.05", "0.4"]
    sources = [source for _, source in found]
    assert sources[0] == "configs/algo/maml.yaml"
    assert [source.rpartition("/")[2] for source in sources[1:]] == ["maml_images.yaml", "maml_omniglot.yaml"]


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("algo.inner_lr", ["algo=maml", "data=omniglot"]),
        ("algo.inner_lr", ["algo.inner_lr=1.5"]),
        ("trainer.iterations", []),
        ("trainer.iterations", ["+paper=maml_omniglot_5way_1shot"]),
        ("trainer.optimizer.lr", ["trainer.optimizer={lr: 0.5}"]),
        ("cl.also.replay.size", ["cl=[ewc,replay]", "data.stages=2", "cl.also.replay.size=7"]),
        ("data.scenario", ["data=split_mnist"]),
        ("seed", []),
    ],
)
def test_the_last_value_is_the_one_composed(key, overrides):
    expected = OmegaConf.select(compose(overrides), key)
    last, _ = rows(why(key, overrides))[-1]
    assert OmegaConf.create(f"value: {last}").value == expected


def test_the_example_of_the_docs_is_what_it_prints():
    page = (CONFIGS.parent / "docs/configuration.md").read_text()
    command, printed = re.search(r"^    \$ metarun why (.+)\n((?:    .+\n)+)", page, re.MULTILINE).groups()
    key, *overrides = command.split()
    assert textwrap.dedent(printed).strip() == why(key, overrides)


def test_the_command_line_wins():
    assert rows(why("algo.inner_lr", ["algo.inner_lr=1.5"]))[-1] == ("1.5", "the command line")
    assert rows(why("trainer.optimizer.lr", ["trainer.optimizer={lr: 0.5}"]))[-1] == ("0.5", "the command line")
    assert rows(why("trainer.optimizer", ["trainer.optimizer.lr=0.5"])) == [
        ("{_target_: torch.optim.Adam, lr: 0.001}", "configs/trainer/default.yaml"),
        ("{lr: 0.5}", "the command line"),
        ("{_target_: torch.optim.Adam, lr: 0.5}", "merged"),
    ]


def test_a_group_is_set_by_choices():
    assert rows(why("model", ["data=omniglot"])) == [("mlp", "configs/config.yaml"), ("conv4", "configs/kind/images.yaml")]
    assert rows(why("model", ["model=resnet12", "data=omniglot"]))[-1] == ("resnet12", "the command line")
    assert rows(why("algo", [])) == [("maml", "configs/config.yaml")]


def test_an_interpolation_is_followed_by_its_value():
    written, resolved = rows(why("hydra.run.dir", ["hydra.run.dir=outputs/${algo.inner_lr}"]))[-2:]
    assert written == ("outputs/${algo.inner_lr}", "the command line")
    assert resolved == ("outputs/0.01", "resolved")


def test_files_of_the_users_own_are_layers(tmp_path):
    (tmp_path / "conf/algo").mkdir(parents=True)
    (tmp_path / "conf/algo/steep.yaml").write_text("# Steep\ndefaults: [maml]\ninner_lr: 0.5\n")
    with chdir(tmp_path):
        found = rows(why("algo.inner_lr", ["algo=steep"]))
        assert rows(why("algo", ["algo=steep"]))[-1] == ("steep", "the command line")
    assert found == [("0.01", "configs/algo/maml.yaml"), ("0.5", "conf/algo/steep.yaml")]


def test_what_changes_when_a_run_starts_is_said():
    assert why("trainer.iterations", ["budget=smoke"]).splitlines()[-1].startswith("budget=smoke cuts it when the run starts")
    assert "cuts" not in why("trainer.iterations", [])
    assert why("data.stages", ["cl=ewc"]).splitlines()[-1].startswith("cl=ewc needs stages")
    assert "needs" not in why("data.stages", ["cl=ewc", "data.stages=2"])


def test_mistakes_are_one_line(here):
    for arguments, line in {
        ("algo.inner_lrr",): "algo.inner_lrr: no such key; did you mean inner_lr?",
        ("algo.inner.lr",): "algo.inner: no such key; did you mean inner_lr?",
        ("seed.x",): "seed.x: no such key",
        ("sead",): "sead: no such key; did you mean seed?",
        ("algo.inner_lr", "algo.inner_lrr=1"): "algo.inner_lrr: no such key; did you mean inner_lr?",
        ("algo.inner_lr", "algo=mmal"): "algo=mmal: no such choice; did you mean maml?",
        ("algo=maml", "algo.inner_lr"): "why: which key? metarun why KEY [GROUP=CHOICE ...] [KEY=VALUE ...]",
        (): "why: which key? metarun why KEY [GROUP=CHOICE ...] [KEY=VALUE ...]",
    }.items():
        assert here("why", *arguments, status=2).stderr == f"metarun: {line}\n"


def test_names_are_checked_as_for_a_run(here):
    assert here("why", "seed", "hydra.searchpath=[pkg://stranger]", status=2).stderr == (
        "metarun: hydra.searchpath=pkg://stranger: expected a folder\n"
    )
