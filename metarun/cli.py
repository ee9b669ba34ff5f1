"""The command line: compose a configuration, run the command, report a mistake in one line. Imports no torch."""

import logging
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from multiprocessing import parent_process
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from metarun.choices import CHOICES, check_user_choices, choices_of, compose, methods, spread
from metarun.config import CONFIGS, ConfigError, check_own_keys
from metarun.declared import modules_in
from metarun.help import help_text
from metarun.hydra_compat import flags
from metarun.mistakes import Parser, line_and_status
from metarun.ranks import ALONE, Ranks, launched
from metarun.signals import stop_if_asked
from metarun.trust import folder_of

log = logging.getLogger(__name__)


def main() -> NoReturn:
    """The console script. Exit status: 0; 1 diverged or a bug; 2 a mistake of the user's; 128 + signal when stopped."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through, to be reported in one line here
    sys.path.append(os.getcwd())  # the user's own classes; last, so that no file there hides a module of Python's
    sys.argv[1:] = arguments = spread(sys.argv[1:])
    logging.raiseExceptions = False  # a full disk is reported once, and not by each line of the log
    place = launched()
    if place is not None and not place.first:  # only the first process writes and prints
        sys.argv += ["hydra.output_subdir=null", "hydra.job_logging.root=null"]
        logging.disable(logging.WARNING)
    try:
        dispatch(arguments)
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        fail(f"{getattr(error, 'message', 'stopped')}; the same command goes on from there", 128 + number)
    except Exception as error:
        known = line_and_status(error, arguments)
        if known is None:
            raise
        fail(*known)
    sys.exit(0)


def dispatch(arguments: list[str]) -> None:
    """Carry out the command line: print help or the version, or run a command, a single run or a sweep."""
    if {"-h", "--help"} & set(arguments):
        say(help_text(arguments))
        return
    if "--version" in arguments:
        say(f"metarun {version('metarun')}")
        return
    check_user_choices()
    if arguments and arguments[0] in COMMANDS:
        if launched() is not None:
            raise ConfigError(f"torchrun: divides the training of one run; use metarun {arguments[0]} without it")
        COMMANDS[arguments[0]](arguments[1:])
        return
    check_flags(arguments)
    try:
        job()
    except SystemExit as end:  # Hydra's own commands, such as --cfg
        sys.exit(2 if end.code else 0)
    if failed:
        raise failed.pop()


def say(text: str) -> None:
    """Print, ignoring a closed pipe: `metarun --help | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # without this, Python would complain at exit about what it could not flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_flags(arguments: list[str]) -> None:
    """Refuse flags that Hydra's own parser would refuse in several lines, and the one that unpickles a file."""
    parser = flags()
    parser.__class__, parser.prog = Parser, "flags"
    given = parser.parse_args(arguments)
    if given.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: reads a pickle, which can run any code; to resume a run, repeat its command")


def fail(message: str, status: int) -> NoReturn:
    """Print one line to stderr and exit. Of several processes on a machine, the first one prints."""
    place = launched()
    if place is None or not place.local:
        print(f"metarun: {message}", file=sys.stderr)
    sys.exit(status)


def show(overrides: list[str]) -> None:
    """`metarun show data=CHOICE`: a picture of a few tasks, without training."""
    config = compose(overrides, hydra_part=True)
    from metarun.show import show as draw

    with modules_in(folder_of(config.hydra)):
        drawn = draw(config, config.hydra.runtime.choices.data)
    for path, stage in drawn.items():
        say(f"{path}  {stage}" if len(drawn) > 1 else str(path))


def report(arguments: list[str]) -> None:
    """`metarun report RUNS ...`: a page that compares runs, or with `--table NAME` a published table."""
    parser = Parser(prog="metarun report", description=report.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that contain some")
    parser.add_argument("--table", help="one of " + ", ".join(sorted(choices_of("table"))))
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="output folder")
    given = parser.parse_args(arguments)
    from metarun.report import page, render, table
    from metarun.report.runs import collect

    runs = collect(given.runs)
    if given.table:
        made = table.make(given.table, runs)
        written = render.save(made, given.out)
        say(render.markdown(made) + "\n")
    else:
        written = [page.save(runs, given.out / "report.html")]
    say("\n".join(map(str, written)))


def evaluate(arguments: list[str]) -> None:
    """`metarun eval RUN [KEY=VALUE ...]`: test a finished run under other settings or on other data, without training."""
    if not arguments:
        raise ConfigError("eval: which run? metarun eval RUN [KEY=VALUE ...]")
    from metarun.use import evaluate as test

    say(test(arguments[0], arguments[1:]))


def why(arguments: list[str]) -> None:
    """`metarun why KEY [GROUP=CHOICE ...] [KEY=VALUE ...]`: every layer that sets a key; the last one wins."""
    if not arguments or "=" in arguments[0]:
        raise ConfigError("why: which key? metarun why KEY [GROUP=CHOICE ...] [KEY=VALUE ...]")
    from metarun.why import why as trace

    say(trace(arguments[0], arguments[1:]))


COMMANDS = {"show": show, "report": report, "eval": evaluate, "why": why}


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
def job(config: DictConfig) -> None:
    """One run, of a single command or of a sweep."""
    try:
        stop_if_asked()
        if parent_process() is not None:  # several jobs share one terminal: each writes to its log file alone
            root = logging.getLogger()
            root.handlers = [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]
        with modules_in(folder_of(HydraConfig.get())):
            run_or_show(config)
    except KeyboardInterrupt:
        if parent_process() is None:
            raise
        # Raised in a worker process of a launcher, it would end the other jobs before they have written their checkpoints.
    except Exception as error:
        if type(error).__name__ == "Pruned":
            log.info("%s", error)
            return
        if HydraConfig.get().mode == RunMode.RUN:
            failed.append(error)  # for `dispatch`; Hydra would print several lines
            return
        said = line_and_status(error, sys.argv[1:])
        log.error(said[0] if said else "The job failed", exc_info=None if said else error)
        if type(error).__name__ != "Busy":  # then the run belongs to another process, which records its own outcome
            write_failure(said[0] if said else f"{type(error).__name__}: {error}")
        raise


failed: list[Exception] = []
"""The exception that ended a single run, for `dispatch`."""


def write_failure(message: str) -> None:
    """Record a failure in the run directory, where the sweep looks for it."""
    from metarun.files import SCHEMA
    from metarun.tracking import RunFolder

    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    if folder.final_results() is None:
        folder.write_results({"schema": SCHEMA, "status": "failed", "stopped": message})


def run_or_show(config: DictConfig) -> None:
    """Run, or print the result of a run that is finished."""
    if "search" in config and HydraConfig.get().mode == RunMode.RUN:
        raise ConfigError("+search needs multirun: add -m")
    from metarun.tracking import RunFolder, source_digest

    check_own_keys(config)
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    chosen = HydraConfig.get().runtime.choices
    choices = {group: chosen[group] for group in CHOICES} | {"cl": methods(chosen)}
    with joined() as ranks:
        earlier = found = None if config.restart else ranks.broadcast(folder.final_results())
        if found is None:
            from metarun.run import run

            found = run(config, choices, folder.path, ranks)
        if not ranks.first:
            return
    if earlier is not None:
        log.info("Already %s", found["status"])
        if found["environment"]["source"] != source_digest(config):
            log.warning("This run was made by other code than metarun's present one; restart=true makes it again")
    if found["status"] == "diverged":
        from metarun.trainer.state import Diverged

        raise Diverged(f"{found['stopped']} ({folder.path}); restart=true starts over")
    from metarun.report.summary import describe

    log.info("%s\n\n%s", describe(found), folder.path)


def joined() -> AbstractContextManager[Ranks]:
    """The processes of this run, connected within the block."""
    place = launched()
    if place is None:
        return nullcontext(ALONE)
    from metarun.trainer.ranks import connected

    return connected(place)
