"""What a stranger's configuration names is refused before it is imported, let alone called."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import results, trained

import metarun as package
from metarun.config import ConfigError

SHORT = (
    *("trainer.iterations=1", "trainer.tasks=2", "trainer.test_tasks=2", "trainer.val_tasks=2", "trainer.threads=1"),
    *("trainer.figures=false", "trainer.tensorboard=false", "model.widths=[4]"),
)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A package on the path that leaves a file when it is imported, with a class of each kind that is asked for."""
    mark = tmp_path / "imported"
    home = tmp_path / "installed" / "stranger"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from hydra.experimental.callback import Callback\n"
        "from metarun.algo.maml import MAML\n"
        "class Learner(MAML): pass\n"
        "class Watcher(Callback): pass\n"
        "def learner(*_, **__): raise RuntimeError('it was called')\n"
    )
    (home / "inner.py").write_text("class Learner: pass\n")
    monkeypatch.syspath_prepend(home.parent)
    monkeypatch.delenv("METARUN_PACKAGES", raising=False)
    yield mark
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger"]:
        del sys.modules[name]


COMMANDS = [
    ["algo._target_=stranger.Learner"],
    ["algo._target_=stranger.inner.Learner"],
    ["algo._target_=os.system"],
    ["algo._target_=metarun.cli.main"],
    ["algo._target_=metarun.data.sine.Sine"],
    ["data._target_=metarun.algo.maml.MAML"],
    ["data._target_=stranger.Learner"],
    ["cl._target_=subprocess.Popen"],
    ["cl._target_=metarun.cl.metrics.stream_metrics"],
    ["model._target_=stranger.Learner"],
    ["model._target_=torch.hub.load"],
    ["trainer._target_=stranger.Learner"],
    ["budget._target_=stranger.Learner"],
    ["trainer.optimizer._target_=stranger.Learner"],
    ["trainer.optimizer._target_=metarun.algo.maml.MAML"],
    ["trainer.optimizer._target_=torch.optim.lr_scheduler.StepLR"],
    ["trainer.optimizer._target_=torch.optim.LBFGS"],
    ["trainer.scheduler={_target_: stranger.learner}"],
    ["trainer.scheduler={_target_: torch.optim.lr_scheduler.LambdaLR, lr_lambda: 'print(1)'}"],
    ["trainer.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau}"],
    ["+trainer.optimizer.defaults={_target_: os.system, command: 'touch imported'}"],
    ["model.widths=[{_target_: stranger.Learner}]"],
    ["+anything.deep=[[{_target_: stranger.inner.Learner}]]"],
    ["+algo._partial_=true"],
    ["+algo._args_=[1]"],
    ["+cl.also.x={_target_: stranger.Learner}"],
    ["model='${oc.create:\"{_target_: stranger.Learner}\"}'"],
    ["+algo@hydra.callbacks.mine=maml"],
    ["+hydra.callbacks.mine={_target_: stranger.Watcher}"],
    ["+hydra.callbacks.mine={_target_: os.system, command: 'touch imported'}"],
    ["+hydra.callbacks.mine={_target_: hydra.experimental.callbacks.PickleJobInfoCallback, x: {_target_: stranger.Learner}}"],
    ["hydra.job_logging.handlers.file.class=stranger.Learner"],
    ["hydra.job_logging.handlers.file.class=logging.config.fileConfig"],
    ["hydra.job_logging.handlers.file.class=logging.Formatter"],
    ["+hydra.job_logging.handlers.file.()=stranger.learner"],
    ["+hydra.job_logging.formatters.simple.()=os.system"],
    ["hydra.job_logging.handlers.console.stream=ext://stranger.inner"],
    ["hydra.hydra_logging.handlers.console.class=stranger.Learner"],
    ["+hydra.job_logging.handlers.file.queue=stranger.learner"],
    ["hydra.searchpath=[pkg://stranger]"],
    ["-m", "hydra.launcher._target_=stranger.Learner"],
    ["-m", "+hydra.launcher.x={_target_: stranger.Learner}"],
    ["-m", "hydra.sweeper._target_=stranger.Learner"],
    ["-m", "+hydra.sweeper.x._target_=stranger.Learner"],
    ["-m", "hydra.sweeper.params={hydra.job_logging.handlers.file.class: stranger.Learner}"],
    ["--experimental-rerun", "some.pickle"],
    ["--exp=some.pickle"],
    ["show", "data._target_=stranger.Learner"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_imports_nothing_of_a_strangers(here, marker, arguments):
    words = [*SHORT, *arguments] if arguments[0] != "show" else arguments
    status, _, err = here.end(*words)
    assert status == 2, err
    assert err.startswith("metarun: ")
    assert err.count("\n") == 1, err
    assert not marker.exists()
    assert not list(here.folder.rglob("results.json"))


def test_a_declared_package_is_the_users_own(here, marker, monkeypatch):
    own = (*SHORT, "algo._target_=stranger.Learner", "+hydra.callbacks.mine={_target_: stranger.Watcher}")
    line = here.end(*own)[2]
    assert line.startswith("metarun: algo._target_=stranger.Learner: ")
    assert line.endswith("if you trust stranger, set METARUN_PACKAGES=stranger\n")
    monkeypatch.setenv("METARUN_PACKAGES", "another, stranger")
    assert here.end(*own)[0] == 0
    assert marker.exists()
    assert "inner.Learner: expected a subclass of Algorithm" in here.end(*SHORT, "algo._target_=stranger.inner.Learner")[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with all that the command line leaves in its directory."""
    folder = tmp_path_factory.mktemp("made")
    trained(folder, *SHORT)
    shutil.copyfile(folder / ".hydra/resolved.yaml", folder / ".hydra/config.yaml")
    return folder


@pytest.fixture
def finished(made, marker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "run"))


def poison(run: Path, **nodes: object) -> None:
    """Change the configuration that is read of a run, under either of its names."""
    path = run / ".hydra" / "resolved.yaml"
    if not path.is_file():
        path = run / ".hydra" / "config.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(path), nodes), path)


@pytest.mark.parametrize(
    "nodes",
    [
        {"algo": {"_target_": "stranger.Learner"}},
        {"algo": {"_target_": "os.system"}},
        {"model": {"_target_": "stranger.inner.Learner"}},
        {"data": {"_target_": "stranger.Learner"}},
        {"cl": {"also": {"x": {"_target_": "stranger.Learner"}}}},
        {"trainer": {"optimizer": {"_target_": "stranger.inner.Learner"}}},
        {"never_built": {"_target_": "stranger.inner.Learner"}},
        {"algo": {"_target_": "beside.Learner"}},
    ],
)
@pytest.mark.parametrize("before_it_was_kept", [False, True])
def test_a_strangers_run_imports_nothing(here, marker, finished, nodes, before_it_was_kept):
    if before_it_was_kept:
        (finished / ".hydra" / "resolved.yaml").unlink()
    (here.folder / "beside.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    poison(finished, **nodes)
    with pytest.raises(ConfigError, match=r"not part of metarun and not declared|no module named beside"):
        package.load("run")
    status, _, err = here.end("eval", "run", "trainer.test_tasks=3")
    assert (status, err.count("\n")) == (2, 1)
    assert here.end("report", "run")[0] == 0
    assert not marker.exists()


def test_a_run_of_ones_own_class_is_used_again_where_it_is_declared(here, marker, finished, monkeypatch):
    (here.folder / "beside.py").write_text("from metarun.algo.maml import MAML\nclass Learner(MAML): pass\n")
    poison(finished, algo={"_target_": "beside.Learner"})
    monkeypatch.syspath_prepend(here.folder)
    monkeypatch.setenv("METARUN_PACKAGES", ".")
    assert here.end("eval", "run", "trainer.test_tasks=3")[0] == 0


def test_a_checkpoint_runs_no_code(here, finished):
    (finished / "checkpoints" / "last.pt").write_bytes(b"cposix\nsystem\n(S'touch imported'\ntR.")
    status, _, err = here.end("eval", "run", "trainer.test_tasks=3")
    assert (status, err.count("\n")) == (2, 1)
    assert "last.pt: not a readable checkpoint" in err
    assert not (here.folder / "imported").exists()


def test_a_page_of_a_strangers_run_has_no_script_in_it(here, finished):
    script = "<script>fetch('x')</script>"
    found = results(finished)
    found["environment"] |= {"git": script, "device": script}
    found["protocol"]["batch_norm"] = found["algo"] = script
    (finished / "results.json").write_text(json.dumps(found))
    assert here.end("report", "run")[0] == 0
    page = (here.folder / "outputs/report/report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script") >= 3
    assert "Content-Security-Policy" in page


ELSEWHERE = {
    "hydra: {callbacks: {mine: {_target_: stranger.Watcher}}}": "hydra.callbacks",
    "hydra: {callbacks: {mine: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}}": "hydra.callbacks",
    "hydra: {job: {env_set: {PATH: elsewhere}}}": "hydra.job",
    "hydra: {job: {chdir: true}}": "hydra.job",
    "hydra: {job_logging: {handlers: {file: {filename: rc}}, formatters: {simple: {format: touch}}}}": "hydra.job_logging",
    "hydra: {launcher: {setup: [touch imported]}}": "hydra.launcher",
    "hydra: {run: {dir: elsewhere}}": "hydra.run",
    "hydra: {sweeper: {_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper}}": "hydra.sweeper",
    "hydra: {sweeper: {params: {hydra.job.env_set.PATH: x}}}": "hydra.job.env_set.PATH=x: Hydra's own keys",
    "algo: {_target_: stranger.Learner}": "algo._target_=stranger.Learner: not part of metarun",
    "algo: {_target_: beside.Learner}": "algo._target_=beside.Learner: not part of metarun",
}


@pytest.mark.parametrize("text", ELSEWHERE)
def test_a_folder_of_configurations_from_elsewhere_runs_nothing(here, marker, tmp_path_factory, text):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (here.folder / "beside.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    (elsewhere / "paper").mkdir()
    (elsewhere / "paper" / "theirs.yaml").write_text(f"# @package _global_\n# Theirs\n{text}\n")
    status, _, err = here.end("-m", "--config-dir", str(elsewhere), "+paper=theirs", *SHORT)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith(f"metarun: {ELSEWHERE[text]}"), err
    assert not marker.exists()
    assert not (here.folder / "rc").exists()


def test_a_folder_of_configurations_from_elsewhere_may_set_the_rest(here, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "paper").mkdir()
    (elsewhere / "paper" / "theirs.yaml").write_text(
        "# @package _global_\nalgo: {inner_lr: 0.07}\nhydra: {sweeper: {params: {seed: '5,6'}}}\n"
    )
    assert here.end("-m", "--config-dir", str(elsewhere), "+paper=theirs", *SHORT, "hydra.sweep.dir=out")[0] == 0
    found = [json.loads(path.read_text())["seed"] for path in here.folder.glob("out/**/results.json")]
    assert sorted(found) == [5, 6]
    shutil.rmtree(here.folder / "out")


def test_a_folder_below_where_one_stands_is_elsewhere_too_unless_it_is_conf(here):
    text = "# @package _global_\n# Theirs\nhydra: {run: {dir: theirs}}\n"
    for name in ("downloads", "conf"):
        (here.folder / name / "paper").mkdir(parents=True)
        (here.folder / name / "paper" / f"of_{name}.yaml").write_text(text)
    assert here.end("--config-dir", "downloads", "+paper=of_downloads", *SHORT)[2].startswith("metarun: hydra.run: a configuration")
    assert here.end("+paper=of_conf", *SHORT)[0] == 0
    assert (here.folder / "theirs/results.json").is_file()
