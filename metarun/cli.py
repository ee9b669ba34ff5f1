"""The command line: compose a configuration, say one clear line on a mistake, hand it to `metarun.run`. Imports no torch."""

import argparse
import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.config import CONFIGS, LATER, ConfigError, check_own_keys, digest, nearest
from metarun.declared import modules_in
from metarun.hydra_compat import flags, use_loader
from metarun.ranks import ALONE, Ranks, launched
from metarun.signals import stop_if_asked
from metarun.trust import CheckedLoader, folder_of

GROUPS = {
    "algo": "how to learn from a support set",
    "data": "where tasks come from",
    "model": "the network; the data brings one that suits it",
    "cl": "continual learning over stages; cl=[ewc,replay] combines",
    "trainer": "the outer loop",
    "budget": "how much of a protocol to run",
    "+paper": "the protocol of a published result, in full",
    "+table": "all runs of a published table, with -m",
    "+search": "search for values of keys on validation, with -m",
}
CHOICES = ("algo", "data", "cl", "model")
MEMORY = "out of memory|can't allocate memory|not enough memory|overflow|[Ii]nvalid storage size"
"""What torch says where there is none left, or where a number is beyond its types."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What is the disk's fault, though nobody says which file's."""

log = logging.getLogger(__name__)

use_loader(CheckedLoader)


def main() -> NoReturn:
    """The console script. Exit status: 0; 1 diverged or a bug; 2 a mistake of the user's; 128 + signal when stopped."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through, to be said in one line here
    sys.path.append(os.getcwd())  # a user's own classes; last, so that no file there hides a module of Python's
    sys.argv[1:] = arguments = spread(sys.argv[1:])
    if {"-h", "--help"} & set(arguments):
        say(help_text(arguments))
        sys.exit(0)
    if "--version" in arguments:
        print(f"metarun {version('metarun')}")
        sys.exit(0)
    logging.raiseExceptions = False  # a disk that is full is said once, and not by each line of the log
    place = launched()
    if place is not None and not place.first:  # one process alone writes and speaks
        sys.argv += ["hydra.output_subdir=null", "hydra.job_logging.root=null"]
        logging.disable(logging.WARNING)
    try:
        check_user_choices()
        if arguments and arguments[0] in COMMANDS:
            if place is not None:
                raise ConfigError(f"torchrun: shares out the training of one run; say metarun {arguments[0]} without it")
            COMMANDS[arguments[0]](arguments[1:])
            sys.exit(0)
        check_flags(arguments)
        try:
            job()
        except SystemExit as end:  # Hydra's own commands, such as --cfg
            sys.exit(2 if end.code else 0)
        if failed:
            raise failed.pop()
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        fail(f"{getattr(error, 'message', 'stopped')}; the same command goes on from there", 128 + number)
    except Exception as error:
        said = what_to_say(error, arguments)
        if said is None:
            raise
        fail(*said)
    sys.exit(0)


def say(text: str) -> None:
    """Print to somebody who may have heard enough: `metarun --help | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Python would complain of what it could not write at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def spread(arguments: list[str]) -> list[str]:
    """`cl=[ewc,replay]` as Hydra takes it: the first method as the group's choice, the others under its key `also`."""
    said = []
    for argument in arguments:
        listed = re.fullmatch(r"cl=\[([\w\s,]+)\]", argument)
        if listed is None:
            said.append(argument)
            continue
        first, *others = listed[1].replace(" ", "").split(",")
        said += [f"cl={first}", *(f"+cl@cl.also.{other}={other}" for other in others)]
    return said


def methods(choices: Mapping[str, str]) -> str:
    """The continual-learning methods chosen: `ewc`, or `ewc+replay`."""
    return "+".join([choices["cl"], *(choice for group, choice in sorted(choices.items()) if group.startswith("cl@"))])


def what_to_say(error: Exception, arguments: list[str]) -> tuple[str, int] | None:
    """The line and the exit status for what is no bug; None for a bug, which shows its traceback."""
    if type(error).__name__ in ("Diverged", "SweepFailed", "Lost"):  # by name: they would bring torch, and a progress bar
        return str(error), 1
    if isinstance(error, OSError) and (error.filename or error.errno in DISK):  # a folder that is not there, a disk that is full
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part), 2
    if isinstance(error, ConfigError | HydraException | OmegaConfBaseException) or raised_by_hydra(error):
        return explain(error, arguments), 2
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(MEMORY, str(error))):
        return f"this is more than the machine can hold ({one_line(str(error))[:160] or 'memory'})", 2
    return None


class Parser(argparse.ArgumentParser):
    """One that says a mistake in one line, as all of metarun does."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('metarun ')}: {message}")


def check_flags(arguments: list[str]) -> None:
    """Refuse what Hydra's own parser would tell in several lines, and its flag that unpickles a file."""
    parser = flags()
    parser.__class__, parser.prog = Parser, "flags"
    given = parser.parse_args(arguments)
    if given.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: reads a pickle, which can run any code; the same command again continues a run")


def fail(message: str, status: int) -> NoReturn:
    """One line on stderr, and the exit status. Of a machine's several processes the first one speaks."""
    place = launched()
    if place is None or not place.local:
        print(f"metarun: {message}", file=sys.stderr)
    sys.exit(status)


def show(overrides: list[str]) -> None:
    """`metarun show data=…`: a picture of a few tasks, without a run."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("config", overrides, return_hydra_config=True)
    from metarun.show import show as draw

    with modules_in(folder_of(config.hydra)):
        drawn = draw(config, config.hydra.runtime.choices.data)
    for path, stage in drawn.items():
        say(f"{path}  {stage}" if len(drawn) > 1 else str(path))


def report(arguments: list[str]) -> None:
    """`metarun report RUNS…`: a page that compares runs; with `--table NAME` a table of `configs/table/`."""
    parser = Parser(prog="metarun report", description=report.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders with some in them")
    parser.add_argument("--table", help="one of " + ", ".join(sorted(choices_of("table", []))))
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="folder for what is written")
    given = parser.parse_args(arguments)
    from metarun.report import page, table
    from metarun.report.runs import collect

    runs = collect(given.runs)
    if given.table:
        made = table.make(given.table, runs)
        written = made.save(given.out)
        say(made.markdown() + "\n")
    else:
        written = [page.save(runs, given.out / "report.html")]
    say("\n".join(map(str, written)))


def evaluate(arguments: list[str]) -> None:
    """`metarun eval RUN [KEY=VALUE ...]`: test a finished run otherwise than it was, or on other data, without training."""
    if not arguments:
        raise ConfigError("eval: which run? metarun eval RUN [KEY=VALUE ...]")
    from metarun.use import evaluate as test

    say(test(arguments[0], arguments[1:]))


COMMANDS = {"show": show, "report": report, "eval": evaluate}


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def job(config: DictConfig) -> None:
    """One run, of a single command or of a sweep."""
    try:
        stop_if_asked()
        if parent_process() is not None:  # many at once on one terminal: what they say stands in their logs
            root = logging.getLogger()
            root.handlers = [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]
        with modules_in(folder_of(HydraConfig.get())):
            run_or_show(config)
    except KeyboardInterrupt:
        if parent_process() is None:
            raise
        # In a process of a launcher's: raised, it would end the others before they have written their checkpoints.
    except Exception as error:
        if type(error).__name__ == "Pruned":
            log.info("%s", error)
            return
        if HydraConfig.get().mode == RunMode.RUN:
            failed.append(error)  # for `main`: Hydra would say more than one line
            return
        said = what_to_say(error, sys.argv[1:])
        log.error(said[0] if said else "The job failed", exc_info=None if said else error)
        if type(error).__name__ != "Busy":  # then the run is another's, who will tell of it
            write_failure(said[0] if said else f"{type(error).__name__}: {error}")
        raise


failed: list[Exception] = []
"""What ended a single run."""


def write_failure(message: str) -> None:
    """Leave word of it in the run directory, for whoever watches the sweep."""
    from metarun.files import SCHEMA
    from metarun.tracking import FINAL, RunFolder

    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    if (folder.results() or {}).get("status") not in FINAL:
        folder.write_results({"schema": SCHEMA, "status": "failed", "stopped": message})


def run_or_show(config: DictConfig) -> None:
    """Run, or show what an earlier command has finished."""
    if "search" in config and HydraConfig.get().mode == RunMode.RUN:
        raise ConfigError("search: tries many runs; say -m, too")
    from metarun.tracking import FINAL, RunFolder, source_digest

    check_own_keys(config)
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    chosen = HydraConfig.get().runtime.choices
    choices = {group: chosen[group] for group in CHOICES} | {"cl": methods(chosen)}
    with joined() as ranks:
        if config.restart and ranks.first:
            folder.supersede()
        found = ranks.told(folder.results())
        made = found is not None and found.get("status") in FINAL
        if not made:
            from metarun.run import run

            found = run(config, choices, folder.path, ranks)
        if not ranks.first:
            return
    if made:
        log.info("Already %s", found["status"])
        if found["environment"]["source"] != source_digest(config):
            log.warning("This run was made by other code than metarun's present one; restart=true makes it again")
    if found["status"] == "diverged":
        from metarun.trainer.state import Diverged

        raise Diverged(f"{found['stopped']} ({folder.path}); restart=true starts over")
    from metarun.report.summary import describe

    log.info("%s\n\n%s", describe(found), folder.path)


def joined() -> AbstractContextManager[Ranks]:
    """The processes of this run, connected for the length of the block."""
    place = launched()
    if place is None:
        return nullcontext(ALONE)
    from metarun.trainer.ranks import connected

    return connected(place)


# The run directory's name ----------------------------------------------------------------------------------------------------


def run_name(*, _root_: DictConfig) -> str:
    """`maml-sine/1f0c9a2b-seed0`: the choices, a digest of what determines the result, and the seed."""
    config = OmegaConf.to_container(_root_, resolve=False)
    choices = _root_.hydra.runtime.choices
    if not isinstance(config, dict):
        raise TypeError("the configuration is no mapping")
    config.pop("hydra", None)
    plain: Any = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    for node, values in LATER.items():
        for key, value in values.items():
            *path, last = f"{node}.{key}".split(".")
            given: Any = plain
            for name in path:
                given = given.get(name) if isinstance(given, dict) else None
            if isinstance(given, dict) and last in given and given[last] == value:
                del given[last]
    if choices.get("budget") == "full":  # which changes nothing
        plain.pop("budget")
    parts = (choices.get("algo", "none"), choices.get("data", "none"), methods(choices))
    name = "-".join(part for part in parts if part != "none")
    return f"{name}/{digest(plain)}-seed{_root_.seed}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


# The user's own configurations -----------------------------------------------------------------------------------------------


class UserConfigs(SearchPathPlugin):
    """Adds a `conf/` folder of the working directory to the places where choices are looked for."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if user_folder().is_dir():
            search_path.append("user", f"file://{user_folder()}")


Plugins.instance().register(UserConfigs)


def user_folder() -> Path:
    """Where a user's own choices lie."""
    return Path.cwd() / "conf"


def check_user_choices() -> None:
    """Refuse a user's choice that has the name of a shipped one, which Hydra would ignore silently, and data of no stated kind."""
    for group in CHOICES:
        for path in (user_folder() / group).glob("*.yaml"):
            if (CONFIGS / group / path.name).is_file():
                raise ConfigError(f"{path}: {group}={path.stem} is a choice of metarun's own; give yours another name")
    for path in (user_folder() / "data").glob("*.yaml"):
        text = path.read_text(errors="replace")
        kind = re.search(r"override /trainer\S*: (images|stream)\b", text)
        if kind and "/kind" not in text:  # learners are tuned by the kind of the tasks, which the trainer's choice does not state
            raise ConfigError(
                f"{path}: expected the kind of its tasks; add `- override /kind@_global_.kind: {kind[1]}` to defaults"
            )


def folders(arguments: list[str]) -> Iterator[Path]:
    """The folders of choices: metarun's, the user's `conf/`, and `--config-dir`."""
    yield CONFIGS
    yield user_folder()
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            yield Path(value if equals else "".join(arguments[i + 1 : i + 2]))


def choices_of(group: str, arguments: list[str]) -> dict[str, Path]:
    """The choices of a group and their files."""
    found = [path for folder in folders(arguments) for path in sorted((folder / group).glob("*.yaml"))]
    return {path.stem: path for path in reversed(found)}


# What is shown ---------------------------------------------------------------------------------------------------------------


def help_text(arguments: list[str]) -> str:
    """Every group with its choices, and a line on each: the first comment of its file."""
    lines = [
        "metarun: meta-learning and continual learning, from a configuration to a results file",
        "",
        "usage: metarun [GROUP=CHOICE ...] [KEY=VALUE ...] [-m] [--cfg job] [--config-dir DIR]",
        "       metarun show data=CHOICE [KEY=VALUE ...]    a picture of a few tasks, without training",
        "       metarun eval RUN [KEY=VALUE ...]            test a finished run otherwise, or on other data",
        "       metarun report RUNS ... [--table NAME]      compare runs on a page, or in a published table",
    ]
    for title, about in GROUPS.items():
        group = title.lstrip("+")
        found = choices_of(group, arguments)
        if found:
            lines += ["", f"{title}=  {about}"]
            lines += (
                rows_of_papers(found) if group == "paper" else [f"  {name:<24} {headline(found[name])}" for name in sorted(found)]
            )
    lines += [
        "",
        "Examples:",
        "  metarun                                            MAML on sine waves, in under a minute",
        "  metarun algo=protonet data=omniglot data.shots=5   another algorithm, data set and value",
        "  metarun -m algo=maml,fomaml seed=0,1,2             a sweep: six runs in one output folder",
        "  metarun -m +search=inner_lr data=sine              a search on validation, then a test",
        "",
        "--cfg job shows the whole configuration, -m sweeps over lists, --hydra-help tells Hydra's own flags.",
        "The same command again continues an unfinished run and shows a finished one; restart=true starts over.",
        'Tab completion in bash: eval "$(metarun -sc install=bash)"',
    ]
    return "\n".join(lines)


def rows_of_papers(found: Mapping[str, Path]) -> list[str]:
    """A line for the cells of one algorithm on one data set: `maml_omniglot_  5way_1shot, 5way_5shot`."""
    cells: dict[str, list[str]] = {}
    for name in sorted(found):
        algo, data, cell = [*name.split("_", 2), "", ""][:3]
        cells.setdefault(f"{algo}_{data}_" if cell else name, []).append(cell)
    return [f"  {begin:<24} {', '.join(ends)}".rstrip() for begin, ends in cells.items()]


def headline(path: Path) -> str:
    """The first comment of a YAML file that says something: package directives are passed over."""
    for line in path.read_text().splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ")
    return ""


def raised_by_hydra(error: BaseException) -> bool:
    """Whether it came out of Hydra, or of what Hydra called, with nothing of metarun's between: a mistake that it let through."""
    packages = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    known = [package for package in packages if package in ("hydra", "omegaconf", "antlr4", "metarun", "hydra_plugins")]
    return bool(known) and known[-1] not in ("metarun", "hydra_plugins")


def explain(error: BaseException, arguments: list[str]) -> str:
    """A mistake in one line: what was found, and the nearest valid choice."""
    text = str(error)
    if isinstance(error, ConfigError):
        return one_line(text)
    if match := re.search(r"Could not (?:find|load) '([\w@./+-]+)/([^/']+)'", text):
        group, choice = match[1].split("@")[0], match[2]
        return f"{group}={choice}: no such choice{nearest(choice, choices_of(group, arguments))}"
    if isinstance(error, HydraException) and (match := re.match(r"Could not override '(paper|table|search)'", text)):
        return f"{match[1]}: it stands in no configuration yet; say +{match[1]}=CHOICE"
    if match := re.search(r"(?:Could not override|Key) '([^']+)'", text):
        key = re.search(r"full_key: (\S+)", text) or re.search(r"override '([^']+)'", text) or match
        return f"{key[1]}: no such key{nearest_key(key[1], arguments)}"
    if match := re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_(joblib|submitit|ray)_", text):
        extra = {"joblib": "parallel", "submitit": "slurm", "ray": "ray"}[match[1]]
        return f"hydra/launcher: this one needs metarun's extra {extra}; pip install 'metarun[{extra}]'"
    if match := re.search(r"You must specify '([^']+)'", text):
        return f"{match[1]}: missing; choose from {', '.join(choices_of(match[1], arguments))}"
    if isinstance(error, OverrideParseException) or not isinstance(error, HydraException | OmegaConfBaseException):
        bad = getattr(error, "override", None) or next((a for a in arguments if a[:1] == "="), None)
        if bad:
            return f"{one_line(bad)}: not an override; write KEY=VALUE, GROUP=CHOICE or +KEY=VALUE"
        cause = f" ({one_line(str(error.__cause__))})" if error.__cause__ else ""
        return f"Hydra cannot work with this configuration: {one_line(text) or type(error).__name__}{cause}"
    return one_line(text)


def nearest_key(key: str, arguments: list[str]) -> str:
    """The suggestion for an unknown key: among the groups and keys at its level."""
    group, dot, name = key.rpartition(".")
    if not dot:
        top = [k for k in keys_of(CONFIGS / "config.yaml") if k not in ("defaults", "hydra")]
        return nearest(key, [*top, *(g.lstrip("+") for g in GROUPS)])
    files = choices_of(group.partition(".")[0], arguments).values()
    return nearest(name, {k for path in files for k in keys_of(path)} - {"_target_", "defaults"})


def keys_of(path: Path) -> list[str]:
    """The top keys of a YAML file."""
    content = yaml.safe_load(path.read_text())
    return list(content) if isinstance(content, Mapping) else []


def one_line(text: str) -> str:
    """A message of several lines in one."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


if __name__ == "__main__":
    main()
