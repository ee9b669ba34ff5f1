"""Kill metarun hundreds of times, resume it each time, and check that nothing is lost.

    python scripts/torture.py --rounds 100              processes forked from one that has imported everything
    python scripts/torture.py --rounds 10 --fresh       a new process for each start, including imports
    python scripts/torture.py --seconds 20 --seed 3     with a time limit, as in the tests

A round runs a command in an empty folder and kills it at random, up to four times: by SIGKILL at a random time; by itself just
before its n-th file operation (open, rename, link, remove, fsync), so that every operation can be hit however short it is; or by
the system in the middle of a write that would make a file larger than n bytes. Then the same command runs until it finishes. Its
output must equal that of a run that was never killed: the same bytes of weights, optimizer and continual-learning state, and the
same results, metrics and scores of test tasks. After each kill every existing file must be complete, and the run must resume from
its last checkpoint.

The exit status is 1 if anything was lost. metarun itself has no code for this test.
"""

import argparse
import fcntl
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # a process with threads must not be forked
    os.environ[threads] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

SHORT = (
    *("trainer.device=cpu", "trainer.threads=1", "trainer.test_tasks=16", "trainer.val_tasks=8", "trainer.checkpoint_every=0.02"),
    *("trainer.log_every=7", "trainer.figures=false", "trainer.tensorboard=false"),
)
SINE = ("trainer.iterations=60", "trainer.validate_every=15", "model.widths=[8,8]", "trainer.tasks=4", *SHORT)
STAGES = ("data.stages=3", "trainer.iterations=20", *SINE[1:])
STREAM = ("data.stages=3", "trainer.switch=0.1", "trainer.iterations=20", "model.widths=[8,8]", "trainer.tasks=4", *SHORT)
IMAGES = (
    *("data=folder", "data.path=IMAGES", "data.size=16", "data.channels=1", "data.ways=2", "data.queries=3", "model.filters=4"),
    *("trainer.iterations=20", "trainer.validate_every=5", "trainer.tasks=2", *SHORT),
)
OMNIGLOT = ("data=omniglot", "model.filters=4", "trainer.iterations=10", "trainer.validate_every=5", "trainer.tasks=2", *SHORT)
NOISY = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, input_shape, outputs, widths: object = None, init: object = None, std: object = None) -> None:
        super().__init__(nn.Linear(1, 20), nn.ReLU(), nn.Dropout(0.1), nn.Linear(20, 1))
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "maml": SINE,
    "dropout": ("trainer.keep_best=3", "trainer.scheduler=cosine", "trainer.clip=1.0", "model={_target_: noisy.Net}", *SINE),
    "reptile": ("algo=reptile", *SINE),
    "maml, pictures": (*SINE, "trainer.figures=true", "trainer.tensorboard=true"),
    "maml, skip": ("trainer.nonfinite=skip", *SINE),
    "protonet": ("algo=protonet", *IMAGES),
    "protonet, omniglot": ("algo=protonet", *OMNIGLOT),
    "ewc": ("cl=ewc", "cl.samples=20", *STAGES),
    "si, harder first": ("cl=si", "trainer.order=active", *STAGES),
    "replay": ("cl=replay", "cl.keep=reservoir", "cl.size=30", *STAGES),
    "agem": ("cl=agem", "cl.size=20", *STAGES),
    "lwf": ("algo=finetune", "cl=lwf", *STAGES),
    "der": ("algo=finetune", "cl=der", "cl.size=30", *STAGES),
    "ewc and replay": ("cl=[ewc,replay]", "cl.samples=20", *STAGES),
    "online": ("cl=replay", *STREAM),
    "online, guessed": ("cl=ewc", "cl.samples=20", "trainer.detect=1.0", *STREAM),
    "sweep": ("-m", "algo=maml,reptile", *SINE),
}
VOLATILE = {"seconds", "tasks_per_second", "resumed_at", "time/tasks_per_second", "environment"}
PATIENCE = 120.0
"""Seconds after which a process is considered hung."""
WARM = (
    *("metarun.cli", "metarun.run", "metarun.data.sine", "metarun.data.folder", "metarun.data.omniglot", "torch._dynamo"),
    *("hydra_plugins.metarun_sweeper", "metarun.sweep", "torch.utils.tensorboard.writer", "matplotlib.figure", "pooch"),
    *(
        "matplotlib.backends.backend_agg",
        "torch.utils.flop_counter",
        "metarun.algo.maml",
        "metarun.model.mlp",
        "metarun.model.conv4",
    ),
)
"""Modules that commands import."""


@dataclass(frozen=True)
class Kill:
    """How a process ends: at a ``moment`` (seconds), before an ``operation`` on a file, or at a file's ``size`` (bytes)."""

    by: str
    at: float


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: exit status; negative: killed by this signal.
        output: standard output and error.
        noted: the file operation before which it was killed, or the number of file operations.
    """

    status: int
    output: str
    noted: str

    @property
    def killed(self) -> bool:
        return self.status in (-signal.SIGKILL, -signal.SIGXFSZ)


# The process that is killed ---------------------------------------------------------------------------------------------------


def work(arguments: Sequence[str], folder: Path, kill: Kill | None, notes: int) -> int:
    """Run the command in ``folder`` with a planned ``kill``; file operations are reported to the pipe ``notes``."""
    os.chdir(folder)
    count = watch(kill, notes)
    if kill is not None and kill.by == "size":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(kill.at), resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    sys.argv = ["metarun", *arguments]
    from metarun.cli import main

    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    os.write(notes, f"{len(count)}\n".encode())
    return status


def watch(kill: Kill | None, notes: int) -> list[str]:
    """Count the operations that change files in the working directory, and kill this process before the one planned by ``kill``."""
    here, count = os.getcwd() + os.sep, []
    own = os.getpid()
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    names = {"os.rename": "rename to", "os.link": "link", "os.remove": "remove", "os.mkdir": "make folder", "fsync": "fsync"}

    def seen(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(given[0], str) or not isinstance(given[2], int) or not given[2] & writing:
                return
        elif event not in names:
            return
        path = str(given[1] if event == "os.rename" else given[0])
        if event == "os.mkdir" and os.path.isdir(path):
            return
        if os.getpid() != own or not os.path.abspath(path).startswith(here) or not isinstance(given[0], str | os.PathLike):
            return
        count.append(path)
        if kill is not None and kill.by == "operation" and len(count) == kill.at:
            name = re.sub(r"^\.(.+)\.[0-9a-f]{8}\.writing$", r"\1 beside", Path(path).name)
            os.write(notes, f"{names.get(event, 'open')} {re.sub(r'[0-9a-f]{8,}|[0-9]+', 'N', name)}\n".encode())
            os.kill(own, signal.SIGKILL)

    fsync = os.fsync

    def synced(file: Any) -> None:
        seen("fsync", (os.readlink(f"/proc/self/fd/{file}") if os.path.isdir("/proc/self/fd") else here + "file",))
        fsync(file)

    sys.addaudithook(seen)
    os.fsync = synced  # type: ignore[assignment]
    return count


# The process that kills -------------------------------------------------------------------------------------------------------


def start(arguments: Sequence[str], folder: Path, kill: Kill | None, *, fresh: bool) -> Ended:
    """Run the command in ``folder`` until it ends by itself or by ``kill``."""
    (said, speak), (noted, note) = os.pipe(), os.pipe()
    for pipe in (speak, note):  # large buffers, as they are read only at the end
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(speak, 1), os.dup2(speak, 2)
            if fresh:
                os.set_inheritable(note, True)
                plan = json.dumps([list(arguments), str(folder), kill and [kill.by, kill.at], note])
                os.execv(sys.executable, [sys.executable, __file__, "--child", plan])  # noqa: S606
            os._exit(work(arguments, folder, kill, note))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)
    for pipe in (speak, note):
        os.close(pipe)
    deadline = time.monotonic() + (kill.at if kill is not None and kill.by == "moment" else PATIENCE)
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    texts = []
    for pipe in (said, noted):
        with os.fdopen(pipe, "rb") as file:
            texts.append(file.read().decode(errors="replace"))
    return Ended(os.waitstatus_to_exitcode(ended[1]), texts[0], texts[1].strip())


def runs(folder: Path) -> dict[str, Path]:
    """The run directories in ``folder``, by relative path."""
    return {str(path.parent.relative_to(folder)): path.parent for path in sorted(folder.glob("outputs/*/*/.hydra"))}


def position(run: Path) -> dict[str, Any] | None:
    """The position in the checkpoint from which the run would resume."""
    last, before = (run / "checkpoints" / f"{name}.pt" for name in ("last", "previous"))
    path = last if last.is_file() else before
    saved: dict[str, Any] | None = torch.load(path, weights_only=True)["position"] if path.is_file() else None
    return saved


def arrays(path: Path) -> dict[str, Any]:
    """The arrays in an npz file."""
    with path.open("rb") as file, np.load(file) as content:
        return dict(content)


def incomplete(folder: Path) -> list[str]:
    """The incomplete files in ``folder``."""
    bad = []
    readers = {".json": lambda path: json.loads(path.read_text()), ".pt": lambda path: torch.load(path, weights_only=True)}
    readers |= {".npz": arrays, ".png": lambda path: Image.open(path).load()}
    for path in folder.rglob("*"):
        if path.suffix in readers and path.is_file():
            try:
                readers[path.suffix](path)
            except Exception as error:
                bad.append(f"{path.relative_to(folder)} is incomplete: {error!r}")
    return bad


def differences(whole: Any, found: Any, where: str = "") -> list[str]:
    """Where ``found`` differs from ``whole``, except times and machines; tensors and numbers are compared bit for bit."""
    if isinstance(whole, dict) and isinstance(found, dict):
        keys = (whole.keys() | found.keys()) - VOLATILE
        missing = [f"{where}/{key} is there once" for key in keys if (key in whole) != (key in found)]
        return missing + [
            d for key in keys & whole.keys() & found.keys() for d in differences(whole[key], found[key], f"{where}/{key}")
        ]
    if isinstance(whole, list | tuple) and isinstance(found, list | tuple) and len(whole) == len(found):
        return [d for i, pair in enumerate(zip(whole, found, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    if isinstance(whole, torch.Tensor) and isinstance(found, torch.Tensor):
        whole, found = whole.numpy(), found.numpy()
    if isinstance(whole, np.ndarray) and isinstance(found, np.ndarray):
        same = whole.dtype == found.dtype and whole.shape == found.shape and whole.tobytes() == found.tobytes()
    else:
        same = type(whole) is type(found) and (whole == found or whole != whole)
    return [] if same else [f"{where} differs: {str(whole)[:60]} and {str(found)[:60]}"]


def left_by(folder: Path) -> dict[str, Any]:
    """The output of the runs in ``folder`` that must not depend on kills."""
    found: dict[str, Any] = {}
    for name, run in runs(folder).items():
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found[name] = {
            "results.json": json.loads((run / "results.json").read_text()),
            "metrics.jsonl": metrics,
            "test.npz": arrays(run / "test.npz"),
            "figures": sorted(path.name for path in run.glob("figures/*")),
        }
        for checkpoint in ("last", "best"):
            path = run / "checkpoints" / f"{checkpoint}.pt"
            found[name][path.name] = torch.load(path, weights_only=True) if path.is_file() else None
    return found


def where(folder: Path, ended: Ended, kill: Kill) -> str:
    """Where a kill took effect, as text."""
    if kill.by == "operation":
        return f"before {ended.noted}"
    if kill.by == "size":
        return "in the middle of a write"
    all_ = list(runs(folder).values())
    if not all_:
        return "at the start"
    run = max(all_, key=lambda path: path.stat().st_mtime_ns)
    at = position(run)
    if at is None:
        return "before the first checkpoint"
    lines = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").is_file() else ""
    if (run / "results.json").is_file():
        return "after the results"
    if '"test/' in lines:
        return "while results are written"
    return "between stages, or at the test" if at["ended"] == at["started"] else f"in stage {at['started']}"


# Rounds -----------------------------------------------------------------------------------------------------------------------


class Torture:
    """Rounds of one call.

    Args:
        place: working folder.
        seed: of the random kills.
        fresh: whether to start a new interpreter for each process.
    """

    def __init__(self, place: Path, seed: int, *, fresh: bool) -> None:
        self.place, self.random, self.fresh = place, random.Random(seed), fresh  # noqa: S311
        self.whole: dict[str, tuple[dict[str, Any], float, int, int]] = {}
        """By command: its output, seconds, number of file operations and size of its largest file."""
        self.struck: Counter[str] = Counter()
        self.kills = self.resumed = self.lost = 0
        pictures = place / "images"
        for c in range(10):
            (pictures / f"class{c}").mkdir(parents=True)
            for i in range(6):
                noise = np.random.default_rng((c, i)).integers(0, 120, (16, 16), dtype=np.uint8)
                noise[c] += 100
                Image.fromarray(noise).save(pictures / f"class{c}" / f"{i}.png")

    def folder(self, name: str) -> Path:
        """A new folder with a user's class in it."""
        folder = self.place / name
        folder.mkdir()
        (folder / "noisy.py").write_text(NOISY)
        return folder

    def arguments(self, name: str) -> list[str]:
        """The arguments of the command ``name``."""
        return [argument.replace("IMAGES", str(self.place / "images")) for argument in COMMANDS[name]]

    def never_killed(self, name: str) -> tuple[dict[str, Any], float, int, int]:
        """Run the command once without kills."""
        if name not in self.whole:
            folder = self.folder(f"whole {name}")
            began = time.monotonic()
            ended = start(self.arguments(name), folder, None, fresh=self.fresh)
            if ended.status:
                raise SystemExit(f"{name}: failed without a kill\n{ended.output}")
            seconds = time.monotonic() - began
            largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            self.whole[name] = (left_by(folder), seconds, int(ended.noted.splitlines()[-1]), largest)
        return self.whole[name]

    def kill(self, name: str) -> Kill:
        """A random kind and time of kill."""
        _, seconds, operations, largest = self.never_killed(name)
        by = self.random.choices(("moment", "operation", "size"), (4, 4, 1))[0]
        if by == "moment":
            return Kill(by, self.random.uniform(0, seconds))
        if by == "operation":
            return Kill(by, self.random.randint(1, operations))
        return Kill(by, int(largest ** self.random.uniform(0, 1)))

    def round(self, number: int, name: str) -> None:
        """Run the command ``name``, kill it, let it finish, and compare."""
        whole = self.never_killed(name)[0]
        folder = self.folder(f"{number} {name}")
        said, bad = [], []
        for _ in range(1 + min(3, int(self.random.expovariate(0.9)))):
            kill = self.kill(name)
            ended = start(self.arguments(name), folder, kill, fresh=self.fresh)
            if not ended.killed:
                if ended.status:
                    bad.append(f"status {ended.status}: {ended.output[-2000:]}")
                break
            self.kills += 1
            said.append(where(folder, ended, kill))
            bad += incomplete(folder)
        self.struck.update(said)
        known = {key: at["step"] for key, run in runs(folder).items() if (at := position(run))}
        done = {key for key, run in runs(folder).items() if (run / "results.json").is_file()}
        ended = start(self.arguments(name), folder, None, fresh=self.fresh)
        if ended.status:
            bad.append(f"status {ended.status} at the end: {ended.output[-2000:]}")
        else:
            bad += incomplete(folder)
            found = left_by(folder)
            bad += differences(whole, found)
            for key, step in known.items():
                if key not in done:
                    self.resumed += 1
                    resumed = found[key]["results.json"]["train"]["resumed_at"]
                    if not resumed or resumed[-1] != step:
                        bad.append(f"{key}: the checkpoint was of update {step}, resumed at {resumed}")
            bad += [f"{path.relative_to(folder)} is left over" for run in runs(folder).values() for path in run.rglob(".*.writing")]
        self.lost += bool(bad)
        print(
            f"{number:4d}  {name:<20} {'; '.join(said) or 'finished before'}{'  LOST' if bad else ''}",
            *bad,
            sep="\n      ",
            flush=True,
        )
        if not bad:
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no round after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="only these commands")
    parser.add_argument("--fresh", action="store_true", help="start a new interpreter for each process")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        arguments, folder, kill, note = json.loads(given.child)
        os._exit(work(arguments, Path(folder), kill and Kill(*kill), note))
    began = time.monotonic()
    names = [name for name in given.only if "omniglot" not in name or os.environ.get("METARUN_DATA")]
    for module in WARM if not given.fresh else ():
        importlib.import_module(module)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="torture") as place:
        os.environ.setdefault("METARUN_CACHE", f"{place}/cache")
        torture = Torture(Path(place), given.seed, fresh=given.fresh)
        done = 0
        order: list[str] = []
        while done < given.rounds and time.monotonic() - began < given.seconds:
            order = order or torture.random.sample(names, len(names))
            done += 1
            torture.round(done, order.pop())
        print(f"\n{done} rounds of {len(torture.whole)} commands in {time.monotonic() - began:.0f} s (seed {given.seed}):")
        print(f"{torture.kills} kills, {torture.resumed} runs resumed from a checkpoint, something lost in {torture.lost} rounds")
        for said, count in torture.struck.most_common():
            print(f"{count:5d}  {said}")
        if torture.lost:
            kept = Path(tempfile.mkdtemp(prefix="torture-lost"))
            shutil.copytree(place, kept, dirs_exist_ok=True)
            print(f"the failed rounds are kept in {kept}")
    sys.exit(bool(torture.lost))


if __name__ == "__main__":
    main()
