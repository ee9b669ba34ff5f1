"""The command line as a user meets it: help, mistakes, a user's own classes, sweeps, finished runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import results

from metarun.choices import methods, spread
from metarun.config import CONFIGS
from metarun.help import GROUPS, headline

SHORT = ("trainer.iterations=20", "trainer.test_tasks=20", "trainer.figures=false", "trainer.tensorboard=false")


def test_a_reader_that_has_heard_enough_is_no_mistake():
    heard, said = os.pipe()
    os.close(heard)
    done = subprocess.run([sys.executable, "-m", "metarun", "--help"], stdout=said, stderr=subprocess.PIPE, text=True)
    os.close(said)
    assert (done.returncode, done.stderr) == (0, "")


def run_folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/**/results.json"))


def test_help_names_every_group_and_choice_with_a_line(here):
    out = here("--help").stdout
    for title in GROUPS:
        group = title.lstrip("+")
        assert f"{title}=" in out
        for path in (CONFIGS / group).glob("*.yaml"):
            assert headline(path), f"{path} does not open with a comment that says what it is"
            if group != "paper":
                assert f"  {path.stem:<24} {headline(path)}" in out
    assert "  protonet_omniglot_       20way_1shot, 20way_5shot, 5way_1shot, 5way_5shot\n" in out
    assert out.partition("Examples:")[2].count("\n  metarun ") == 4


def test_the_command_line_imports_no_torch():
    code = "import sys, metarun.cli, metarun.tracking, metarun.report.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version(here):
    assert here("--version").stdout == "metarun 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["algo=mmal"], "algo=mmal: no such choice; did you mean maml?"),
        (["data=sin"], "data=sin: no such choice; did you mean sine?"),
        (["+paper=maml_sine"], "paper=maml_sine: no such choice; did you mean maml_sine_5shot?"),
        (["algo.inner_lrr=1"], "algo.inner_lrr: no such key; did you mean inner_lr?"),
        (["+algo.new=1"], "algo.new: no such key"),
        (["trainer.optimizer.lrr=1"], "trainer.optimizer.lrr: no such key; did you mean lr?\n"),
        (
            ["trainer.optimizer.eps=1"],
            "trainer.optimizer.eps: no such key (choose from lr); another argument of Adam is added by +trainer.optimizer.eps=",
        ),
        (["paper=maml_sine_5shot"], "paper: not in the default configuration; use +paper=CHOICE\n"),
        (["papers=maml_sine_5shot"], "papers: no such key; did you mean paper?\n"),
        (["+search=inner_lr"], "+search needs multirun: add -m\n"),
        (["alg=maml"], "alg: no such key; did you mean algo?"),
        (["sead=1"], "sead: no such key; did you mean seed?"),
        (["algo.inner_lr=abc"], "algo.inner_lr=abc: expected float"),
        (["algo.inner_lr=-1"], "algo.inner_lr=-1.0: expected a number above 0"),
        (["algo.inner_lr=null"], "algo.inner_lr=None: expected float"),
        (["trainer.device=gpu"], "trainer.device=gpu: expected auto, or a device"),
        (["data.ways=5"], "data.ways: no such key (choose from amplitude, frequency, noise, phase, queries, shots, stage_by,"),
        (["data.shots=0"], "data.shots=0: expected 1 or more"),
        (["trainer.iterations=1.5"], "trainer.iterations=1.5: expected int"),
        (["model=conv4"], "model=conv4: expected images"),
        (["cl=ewc", "data=sine_stream"], "cl: EWC needs stages, and data=sine_stream has only one; choose data with"),
        (["cl=[ewc,l2]", "data=sine_stream"], "cl: EWC+L2 needs stages, and data=sine_stream has only one"),
        (["trainer.switch=0.1", "data=sine_stream"], "trainer.switch=0.1 needs stages, and data=sine_stream has only one"),
        (["trainer.order=random", "data=sine_stream"], "trainer.order=random needs stages, and data=sine_stream has only one"),
        (["algo=protonet"], "ProtoNet learns classification alone, but data=sine is regression"),
        (
            ["trainer.optimizer._target_=torch.optim.Adm"],
            "trainer.optimizer._target_=torch.optim.Adm: no Adm in torch.optim; did you mean Adam?",
        ),
        (["algo._target_=metarun.data.sine.Sine"], "algo._target_=metarun.data.sine.Sine: expected a subclass of Algorithm"),
        (["seed=x"], "seed=x: expected int"),
        (["=3"], "=3: not an override"),
        (["algo=[maml"], "algo=[maml: not an override"),
        (["maml"], "maml: not an override"),
        (["algo=null"], "Hydra cannot work with this configuration: Config group override must be a string"),
        (["hydra.run.dir=/dev/null/none"], "/dev/null/none: Not a directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(here, arguments, line):
    done = here(*SHORT, *arguments, status=2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"metarun: {line}"), done.stderr
    assert "Update" not in done.stdout
    assert not run_folders(here.folder)


def test_data_of_ones_own_must_state_the_kind_of_its_tasks(here):
    """A file written when the trainer's choice decided it would otherwise get another learner, silently."""
    (here.folder / "conf/data").mkdir(parents=True)
    lines = ["# Mine", "defaults:", "  - override /trainer@_global_.trainer: images", "_target_: metarun.data.sine.Sine"]
    (here.folder / "conf/data/mine.yaml").write_text("\n".join(lines))
    done = here("data=mine", *SHORT, status=2)
    assert done.stderr.endswith(
        "conf/data/mine.yaml: expected the kind of its tasks; add `- override /kind@_global_.kind: images` to defaults\n"
    )
    lines.insert(2, "  - override /kind@_global_.kind: images")
    (here.folder / "conf/data/mine.yaml").write_text("\n".join(lines))
    assert "inner_lr: 0.05" in here("data=mine", "--cfg", "job").stdout


def test_default_run_and_again(metarun, here):
    done = metarun(*SHORT)
    assert done.stderr == ""  # no progress bar where stderr is no terminal
    first = done.stdout
    (folder,) = run_folders(here.folder)
    found = results(folder)
    assert found["status"] == "finished"
    assert found["train"]["iterations"] == 20
    assert f"{found['test']['by_step'][5]['mean']:.3f}" in first
    again = here(*SHORT).stdout
    assert "Already finished" in again
    assert first.splitlines()[-1] in again
    restarted = here(*SHORT, "restart=true").stdout
    assert "Already" not in restarted
    assert results(folder / "superseded/1") == found
    assert results(folder)["test"] == found["test"]


def test_a_sweep_runs_in_one_folder_and_goes_on_after_a_failure(here):
    here("-m", "seed=0,1,2", *SHORT)
    assert [path.name.partition("-")[2] for path in run_folders(here.folder)] == ["seed0", "seed1", "seed2"]
    assert len({path.name.partition("-")[0] for path in run_folders(here.folder)}) == 1
    done = here("-m", "algo.inner_lr=-1,0.02", *SHORT, status=1)
    assert "metarun: 1 of 2 jobs failed; the first: algo.inner_lr=-1.0: expected a number above 0" in done.stderr
    assert len(run_folders(here.folder)) == 5


def test_machine_keys_do_not_change_the_folder(here):
    here(*SHORT)
    assert "Already finished" in here(*SHORT, "trainer.threads=2", "trainer.checkpoint_every=1").stdout
    assert len(run_folders(here.folder)) == 1


def test_a_folder_of_the_users_own_is_obeyed(here):
    here("hydra.run.dir=here", *SHORT)
    assert (here.folder / "here/results.json").is_file()
    assert "Already finished" in here("hydra.run.dir=here", *SHORT).stdout


def test_a_users_own_algorithm_and_module(here):
    """A class in a package of the user's, a YAML in `conf/`, and nothing of metarun's touched."""
    package = here.folder / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "learner.py").write_text(
        "from torch import nn\n"
        "from metarun.algo.maml import MAML\n"
        "class Mine(MAML):\n"
        '    """MAML with half the rate."""\n'
        "    def __init__(self, spec, network, inner_lr: float, factor: float = 0.5) -> None:\n"
        "        super().__init__(spec, network, inner_lr * factor, test_steps=2)\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, input_shape, outputs, width: int) -> None:\n"
        "        super().__init__(nn.Linear(*input_shape, width), nn.Tanh(), nn.Linear(width, outputs))\n"
    )
    (here.folder / "conf/algo").mkdir(parents=True)
    (here.folder / "conf/model").mkdir()
    (here.folder / "conf/algo/mine.yaml").write_text("# Mine\n_target_: mine.learner.Mine\ninner_lr: 0.02\nfactor: 0.5\n")
    (here.folder / "conf/model/net.yaml").write_text("# A net\n_target_: mine.learner.Net\nwidth: 8\n")
    here("algo=mine", "model=net", *SHORT)
    (folder,) = run_folders(here.folder)
    found = results(folder)
    assert (found["algo"], found["model"]) == ("mine", "net")
    assert len(found["test"]["by_step"]) == 3
    assert "other code" not in here("algo=mine", "model=net", *SHORT).stdout
    with (package / "learner.py").open("a") as file:
        file.write("# changed\n")
    assert "made by other code" in here("algo=mine", "model=net", *SHORT).stdout
    assert "  mine " in here("--help").stdout
    assert "algo.factr: no such key; did you mean factor?" in here("algo=mine", "algo.factr=1", status=2).stderr
    (here.folder / "conf/algo/maml.yaml").write_text("# Not seen\n")
    assert "give yours another name" in here(status=2).stderr


def test_another_config_folder(here):
    (here.folder / "elsewhere/algo").mkdir(parents=True)
    text = "# Steeper\ndefaults: [maml]\ninner_lr: 0.05\n"
    (here.folder / "elsewhere/algo/steep.yaml").write_text(text)
    here("--config-dir", "elsewhere", "algo=steep", *SHORT)
    (folder,) = run_folders(here.folder)
    assert results(folder)["algo"] == "steep"
    assert "  steep " in here("--help", "--config-dir", "elsewhere").stdout


def test_a_list_of_methods():
    said = ["algo=maml", "cl=[ewc, replay,agem]", "cl.strength=3", "cl=ewc", "cl.penalise=[true,false]"]
    also = ["+cl@cl.also.replay=replay", "+cl@cl.also.agem=agem"]
    assert spread(said) == ["algo=maml", "cl=ewc", *also, "cl.strength=3", "cl=ewc", "cl.penalise=[true,false]"]
    assert methods({"algo": "maml", "cl@cl.also.agem": "agem", "cl": "ewc"}) == "ewc+agem"


def test_methods_combine(here):
    here("cl=[replay,ewc]", "data.stages=2", "cl.size=7", "cl.also.ewc.strength=3", "cl.also.ewc.samples=20", *SHORT)
    (folder,) = run_folders(here.folder)
    assert folder.parent.name == "maml-sine-replay+ewc"
    found = results(folder)
    assert found["cl"] == "replay+ewc"
    assert found["continual"]["options"]["also"]["ewc"]["strength"] == 3
    line = here("cl=[replay,ewc]", "cl.also.ewc.strngth=3", status=2).stderr
    assert line == "metarun: cl.also.ewc.strngth: no such key; did you mean strength?\n"
    assert here("reference=nowhere", "data.stages=2", *SHORT, status=2).stderr.startswith("metarun: reference=nowhere: expected")


def test_a_continual_method_gets_the_datas_default_stages(here):
    (here.folder / "conf/cl").mkdir(parents=True)
    (here.folder / "conf/cl/counting.yaml").write_text("# Counts stages\n_target_: counting.Counting\n")
    (here.folder / "counting.py").write_text(
        "from metarun.cl.method import ContinualMethod\n"
        "class Counting(ContinualMethod):\n"
        "    ended = 0\n"
        "    def on_stage_end(self, algorithm, stage):\n"
        "        self.ended += 1\n"
        "        print(f'ended {self.ended}: {stage.name}')\n"
    )
    out = here("cl=counting", *SHORT).stdout
    assert "data.stages=4: continual learning needs stages" in out
    assert "ended 4: phase 2.36-3.14" in out
    assert [path.parent.name for path in run_folders(here.folder)] == ["maml-sine-counting"]
    assert "ended 2" in here("cl=counting", "data.stages=2", *SHORT).stdout


DAMAGED = {
    "omniglot": ("omniglot/images_background.zip", b"<html>quota exceeded</html>", "not a readable zip archive"),
    "cifarfs": ("cifar100/cifar-100-binary.tar.gz", b"\x1f\x8b\x08\x00", "not a readable tar.gz archive"),
    "fc100": ("cifar100/cifar-100-binary.tar.gz", b"", "not a readable tar.gz archive"),
    "mnist": ("mnist/train-images-idx3-ubyte.gz", b"\x1f\x8b\x08\x00half", "not a readable gzip file"),
    "miniimagenet": ("miniimagenet/mini-imagenet-cache-train.pkl", b"cposix\nsystem\n(S'true'\ntR.", "it asks for posix.system"),
}


@pytest.mark.parametrize("data", DAMAGED)
def test_damaged_data_is_one_line_and_nothing_is_lost(here, monkeypatch, data):
    name, content, message = DAMAGED[data]
    path = here.folder / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("METARUN_CACHE", str(here.folder / "cache"))
    done = here("algo=protonet", f"data={data}", "data.root=data", *SHORT, status=2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert path.read_bytes() == content
    assert not list((here.folder / "cache").rglob("*.np?"))
