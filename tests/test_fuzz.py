"""Whatever the command line says, it ends in a run, or in status 2 with one line: never a traceback, never a hang."""

import itertools
import re
import resource
import time
from functools import cache

import pooch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from runs import composed, trained

from metarun.config import CONFIGS
from metarun.tracking import flat

# A logging configuration that fails half way leaves its log file open, as the interpreter ends anyway.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHORT = [
    *("trainer.iterations=1", "trainer.tasks=2", "trainer.test_tasks=2", "trainer.val_tasks=2", "trainer.threads=1"),
    *("trainer.figures=false", "trainer.tensorboard=false", "data.shots=2", "data.queries=2"),
]
GROUPS = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    for group in ("algo", "data", "model", "cl", "trainer", "budget", "paper", "table", "search")
}
CHEAP = {"data": ["linear", "sine", "sine_stream"], "model": ["mlp"], "budget": ["smoke", "full"]}
"""Choices drawn most of the time: the others mostly want data that are not there."""
LONG = {"iterations", "stages", "trials", "test_seeds", "inner_steps", "test_steps", "cg_steps", "tasks", "val_tasks", "test_tasks"}
"""Keys whose large values are no mistake, but hours of work."""
SECONDS = 20
"""Of the processor, for any of these commands."""


@cache
def keys() -> list[str]:
    found = [composed(*said.split()) for said in ("", "cl=ewc data=sine_stream", "algo=metalearner", "algo=taskembed", "cl=replay")]
    named = {key for config in found for key in flat(OmegaConf.to_container(config, resolve=False))}
    return sorted({*named, *(key.rpartition(".")[0] for key in named if "." in key)})


HYDRA = [
    *(
        "hydra.run.dir",
        "hydra.sweep.dir",
        "hydra.sweep.subdir",
        "hydra.mode",
        "hydra.verbose",
        "hydra.output_subdir",
        "hydra.searchpath",
    ),
    *("hydra.job.name", "hydra.job.chdir", "hydra.job.env_set", "hydra.callbacks", "hydra.launcher", "hydra.sweeper", "hydra"),
    *("hydra.job_logging", "hydra.job_logging.root.level", "hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra.help"),
]
NUMBERS = ["0", "1", "2", "3", "-1", "-7", "0.5", "1e-3", "1.5", "-0.0", "1e400", "nan", "inf", "-inf", "1e30", "9" * 19, "9" * 40]
WORDS = [
    "null",
    "true",
    "false",
    "abc",
    "''",
    '""',
    "???",
    "[]",
    "{}",
    "[1,2]",
    "[[1],[2]]",
    "{a: 1}",
    "[null]",
    "[-1,2]",
    "[nan]",
    "yes",
]
ODD = [
    *("", "=", "==", "[", "]", "{", "}", "[1", "{a", "a:b", "a b", "'", '"', "\\", "\\\\", "$", "${", "${}", "${x}", "${seed}"),
    *(
        "${trainer}",
        "${data.shots}",
        "${oc.env:HOME}",
        "${oc.env:NOPE}",
        "${now:%Y}",
        "${choose:x,{a: 1}}",
        "${run_name:}",
        "${hydra:job.name}",
    ),
    *(
        "'${algo}'",
        "'${algo.inner_lr}'",
        "{_target_: os.system}",
        "{_target_: metarun.algo.maml.MAML}",
        "{_target_: 1}",
        "ü",
        "日本",
        "\u202e",
    ),
    *(
        "a\tb",
        "a\nb",
        "\x00",
        "\x07",
        "../..",
        "/",
        "~",
        "/proc/none",
        "*",
        "%s",
        "{{}}",
        "a=b=c",
        "1,2",
        "range(3)",
        "choice(1,2)",
        "glob(*)",
    ),
    *(
        "int(x)",
        "str(1)",
        "sort(3,1)",
        "tag(a,interval(0,1))",
        "interval(0,1)",
        "shuffle(1,2)",
        "extend_list(1)",
        "f(x)",
        "a" * 3000,
    ),
]
values = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.sampled_from(ODD), st.text(max_size=6))
prefixes = st.sampled_from([*[""] * 8, "+", "++", "~", "+++", "@", "-"])

BASES = [
    *(
        "algo=maml",
        "algo=reptile data=linear",
        "algo=taskembed",
        "algo=imaml",
        "algo=metalstm",
        "algo=mamlpp",
        "algo=cavia",
        "algo=oracle",
    ),
    *("algo=metalearner algo.network=lstm", "algo=metalearner algo.network=mann", "algo=metalearner algo.network=snail"),
    *("algo=oml data=sine_stream", "cl=ewc data.stages=2", "cl=[replay,ewc] data.stages=2", "trainer.switch=0.5 data.stages=2"),
    *(
        "+paper=maml_sine_5shot",
        "trainer=images",
        "budget=smoke algo=metasgd",
        "cl=progressive data.stages=2",
        "algo=finetune cl=der",
    ),
]
"""Commands that run, whose keys are given other values."""


@st.composite
def overrides(draw) -> str:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.one_of(st.text(max_size=12), st.sampled_from(ODD)))
    if kind in (1, 2):
        group = draw(st.sampled_from(sorted(GROUPS)))
        choices = CHEAP.get(group, GROUPS[group]) if draw(st.integers(0, 3)) else GROUPS[group]
        choice = draw(st.one_of(st.sampled_from(choices), st.sampled_from(choices), values))
        sign = draw(st.sampled_from(["", "+"])) if group in ("paper", "table", "search") else draw(prefixes)
        package = draw(st.sampled_from(["", "", "", "@x", "@_global_", "@a.b", "@"]))
        return f"{sign}{group}{package}={choice}"
    if kind == 3:
        return f"{draw(prefixes)}{draw(st.sampled_from(HYDRA))}={draw(values)}"
    key = draw(st.sampled_from(keys()))
    if draw(st.integers(0, 7)) == 0:  # a mutation of it
        at = draw(st.integers(0, len(key)))
        key = (
            key[:at]
            + draw(st.sampled_from([".", "x", "[0]", "@", " ", ".x", "..", "é", "_"]))
            + key[at + draw(st.integers(0, 1)) :]
        )
    value = draw(values)
    if key.rpartition(".")[2] in LONG and value[:1].isdigit() and len(value) > 1:
        value = "1"
    prefix = draw(prefixes)
    return f"{prefix}{key}" if prefix == "~" and draw(st.booleans()) else f"{prefix}{key}={value}"


@cache
def keys_of(base: str) -> list[str]:
    return sorted(flat(OmegaConf.to_container(composed(*base.split()), resolve=False)))


@st.composite
def commands(draw) -> list[str]:
    """A command that runs, with other values, mostly of some kind that there could be, for one or two of its keys."""
    base = draw(st.sampled_from(BASES))
    said = base.split()
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(keys_of(base)))
        value = draw(st.one_of(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.sampled_from(WORDS), values))
        if key.rpartition(".")[2] in LONG and value.lstrip("'")[:1].isdigit():
            value = "1"
        said.append(f"{draw(st.sampled_from(['', '', '', '', '++', '~']))}{key}={value}")
    return said


@pytest.fixture
def ended(here, monkeypatch):
    """A command in a folder of its own: how it ended, checked."""

    def nothing(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", nothing)
    monkeypatch.setenv("METARUN_DATA", str(here.folder / "data"))
    monkeypatch.setenv("METARUN_CACHE", str(here.folder / "cache"))
    number = itertools.count()
    root = here.folder
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def command(*arguments: str) -> int:
        here.folder = root / str(next(number))
        here.folder.mkdir()
        began = time.process_time()
        resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, hard))  # what does not fit is refused by the system, as on any machine
        try:
            status, _, err = here.end(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert time.process_time() - began < SECONDS
        assert status in (0, 1, 2)
        if status:
            assert err.count("\n") == 1, err

        return status

    return command


common = settings(
    max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@common
@given(said=st.lists(overrides(), min_size=1, max_size=3))
def test_any_overrides_end_in_a_run_or_in_one_line(ended, said):
    ended(*SHORT, *(word for word in said if "\x00" not in word))


@pytest.mark.slow
@common
@given(said=commands())
def test_any_value_of_any_key_ends_in_a_run_or_in_one_line(ended, said):
    ended(*SHORT, *(word for word in said if "\x00" not in word))


ONCE = """
model.widths=[9999999999999999999] | model.widths=[100000000000] | data.queries=9223372036854775807 | data.shots=1000000000000
trainer.threads=1000000 | trainer.device=meta | trainer.optimizer=null | trainer.optimizer.lr=-1
+trainer.optimizer.foreach=true | +trainer.optimizer.capturable=true | trainer.optimizer._target_=torch.optim.SparseAdam
trainer.scheduler={_target_: torch.optim.lr_scheduler.StepLR, step_size: 0} | trainer.scheduler={} | reference=1 | restart=abc
hydra.job.name=a/b | hydra.job_logging.root.level=abc | hydra.job_logging.handlers=null | hydra.job_logging.root.handlers=[nope]
hydra.job.env_copy=[NOPE] | hydra/job_logging=none | hydra=null | ++hydra=1 | --cfg job -p nope | --cfg | --nope | -cn ../config
cl=[ewc,replay] cl.also=1 data.stages=2 | +cl.also={x: null} cl=ewc data.stages=2 | +cl.also=abc cl=ewc data.stages=2 | ++cl=3
cl=ewc cl.strength=1e300 data.stages=2 | algo=metalearner algo.network=snail algo.networks.snail.levels=40 | paper=maml_sine_5shot
algo=metalearner algo.networks={cnp: null} | data=sequence data.options={mnist: 1} data.of=[mnist] | +a=${b} +b=${a} | seed=1,2
"""


@pytest.mark.parametrize("said", [line.strip() for line in ONCE.replace("|", "\n").splitlines() if line.strip()])
def test_what_was_a_traceback_once_is_one_line(ended, said):
    assert ended(*SHORT, *re.split(r" (?![^{]*})", said)) == 2


COMMANDS = [
    *(
        "show data=null",
        "show data=sine data.shots=-1",
        "show =",
        "show nope",
        "show ++data=1",
        "show -m",
        "show data=folder data.path=nope",
    ),
    *("eval", "eval nope", "eval . x", "report", "report nope", "report . --table nope", "report . --nope", "report --table"),
]


@pytest.mark.parametrize("said", COMMANDS)
def test_a_mistake_of_another_command_is_one_line(ended, said):
    assert ended(*said.split()) == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, for what `metarun eval` may be told of it."""
    folder = tmp_path_factory.mktemp("finished")
    trained(folder, *SHORT, "model.widths=[4]")
    return folder


@pytest.mark.slow
@common
@given(said=st.lists(overrides(), min_size=1, max_size=2))
def test_any_overrides_of_a_test_end_in_it_or_in_one_line(ended, finished, said):
    ended("eval", str(finished), *(word for word in said if "\x00" not in word))
