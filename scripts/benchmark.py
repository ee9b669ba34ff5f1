"""metarun's speed beside `higher`, TorchOpt, a plain loop over tasks and the floor of the operations: docs/performance.md.

    python scripts/benchmark.py                        every row and the curves, about twenty minutes on two cores
    python scripts/benchmark.py --quick                some rows, two minutes
    python scripts/benchmark.py --rows 'Omniglot*MAML' --threads 1
    python scripts/benchmark.py --device cuda          the same on a GPU

Contenders take turns (A B C A B C …) in one process; a time is the median of the rounds, a ratio that of the rounds' ratios. Memory
is the peak above what was held before one update: on the CPU resident memory, in a process of its own; on a GPU what torch
allocated. Before anything is timed, all contenders must find the same numbers in float64. Written to outputs/benchmark/: table.md,
results.json, benchmark.png. The libraries come with the extra `bench`; without them their columns stay empty.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import work
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from work import LIBRARIES, Contenders, Place, Shape, missing, synchronize

from metarun.tracking import git_commit
from metarun.trainer.machine import cores, keep_freed_memory

PEERS = ("higher", "torchopt", "loop", "floor")
AGREE = 1e-8
"""The largest relative difference of two contenders' gradients in float64."""


class Goal(NamedTuple):
    """Metarun's seconds are at most ``factor`` times those of ``against``, which is a contender or "second"."""

    said: str
    against: str
    factor: float
    device: str | None = "cpu"  # None: any


@dataclass(frozen=True)
class Case:
    """A row of the table: the same work by each contender. ``small`` work runs on one thread, as metarun itself chooses."""

    name: str
    make: Callable[[Place], Contenders]
    tasks: int = 1
    goals: tuple[Goal, ...] = ()
    quick: bool = False
    small: bool = False
    exact: bool = True
    own_clock: bool = False


# The rows ---------------------------------------------------------------------------------------------------------------------


def row(
    shape: Shape, what: str, make: Callable[..., Contenders], *goals: Goal, quick: bool = False, exact: bool = True, **keys: Any
) -> Case:
    return Case(f"{shape.name}: {what}", partial(make, shape, **keys), shape.tasks, goals, quick, shape.waves, exact)


def maml(shape: Shape, steps: int, *goals: Goal, first_order: bool = False, quick: bool = False) -> Case:
    what = f"{'first-order ' * first_order}MAML, {steps} step{'s' * (steps > 1)}"
    return row(shape, what, work.maml, *goals, quick=quick, steps=steps, first_order=first_order)


def omniglot(tasks: int, queries: int, ways: int = 5, shots: int = 1, *, strided: bool = True) -> Shape:
    """With the network of MAML's code, whose convolutions have stride 2, or with one that pools."""
    return Shape("Omniglot", tasks, ways, shots, queries, strided)


SINE = Shape("sine", 25, 0, 10, 10)
MINI = Shape("miniImageNet", 4, 5, 1, 15)
AHEAD = Goal("≥ loop", "loop", 1.0, None)
SHARE = Goal("< 3 % of a step", "step", 0.03, None)
ON_GPU = (Goal("≥ 500 updates/s", "second", 1 / 500, "cuda"), Goal("≥ 20 × higher", "higher", 1 / 20, "cuda"))
CASES = [
    maml(SINE, 1, Goal("≥ 25 × higher", "higher", 1 / 25), Goal("≥ 12 × loop", "loop", 1 / 12), quick=True),
    maml(SINE, 5, quick=True),
    maml(SINE, 1, first_order=True, quick=True),
    maml(SINE, 5, first_order=True),
    row(SINE, "Reptile, 5 steps", work.reptile, quick=True),
    row(SINE, "metalearner (cnp)", work.metalearner, quick=True),
    row(Shape("sine", 200, 0, 10, 10), "evaluation, 10 steps", work.evaluation, quick=True),
    row(SINE, "sampling", work.sampling, SHARE, quick=True, exact=False),
    Case(
        "sine: the trainer around the update", work.trainer, 25, (Goal("≤ 5 % more", "bare loop", 1.05),), True, True, False, True
    ),
    Case("sine: start to first update", work.start, 1, (Goal("< 5 s", "second", 5.0),), True, True, False, True),
    maml(omniglot(4, 1), 1),
    maml(omniglot(32, 1), 1, Goal("≥ 4 × higher", "higher", 1 / 4), *ON_GPU, quick=True),
    maml(omniglot(32, 1), 5),
    maml(omniglot(32, 1), 1, first_order=True),
    maml(omniglot(4, 15), 1),
    maml(omniglot(32, 15), 1, Goal("≥ 2 × higher", "higher", 1 / 2), Goal("≤ 2.5 × floor", "floor", 2.5), quick=True),
    maml(omniglot(8, 15), 5),
    maml(omniglot(32, 15), 1, first_order=True),
    maml(omniglot(4, 5, 20, 5), 1),
    maml(omniglot(4, 5, 20, 5), 1, first_order=True),
    maml(omniglot(32, 1, strided=False), 1),
    row(omniglot(32, 15, strided=False), "ProtoNet", work.protonet),
    row(
        omniglot(1, 5, 60, strided=False),
        "ProtoNet",
        work.protonet,
        Goal("≥ 1,000 episodes/s", "second", 1 / 1000, "cuda"),
        quick=True,
    ),
    row(omniglot(5, 1, 5, 10), "Reptile, 5 steps", work.reptile),
    row(omniglot(16, 15), "metalearner (cnp)", work.metalearner),
    row(omniglot(32, 15), "evaluation, 3 steps", work.evaluation, steps=3),
    row(omniglot(32, 1), "sampling", work.sampling, SHARE, quick=True, exact=False),
    maml(MINI, 1),
    maml(MINI, 5),
    maml(MINI, 5, first_order=True),
    row(Shape("miniImageNet", 1, 20, 1, 15), "ProtoNet", work.protonet),
    row(MINI, "sampling", work.sampling, SHARE, exact=False),
    Case("MNIST, 512 examples: Fisher, sampled labels", partial(work.of_fisher, 512, sampled=True), 512, (), True, exact=False),
    Case("MNIST, 512 examples: Fisher, the data's labels", partial(work.of_fisher, 512, sampled=False), 512),
]


def point(shape: Shape, steps: int = 1) -> Case:
    return row(shape, f"inner steps {steps}, each way", work.variants, steps=steps)


CURVES: dict[str, dict[int, Case]] = {
    "conv4, tasks": {n: point(omniglot(n, 1)) for n in (4, 8, 16, 32, 64)},
    "conv4, queries of a class": {n: point(omniglot(8, n)) for n in (1, 5, 10, 20, 30)},
    "conv4, inner steps": {n: point(omniglot(8, 1), n) for n in (1, 2, 5, 10)},
    "sine, tasks": {n: point(Shape("sine", n, 0, 10, 10)) for n in (4, 8, 16, 32, 64)},
    "sine, inner steps": {n: point(SINE, n) for n in (1, 2, 5, 10)},
}
EVERY = {case.name: case for case in [*CASES, *(case for curve in CURVES.values() for case in curve.values())]}


# Measuring --------------------------------------------------------------------------------------------------------------------


def settle(case: Case, threads: int | None) -> int:
    """Threads, allocator and random numbers as a run has them."""
    torch.set_num_threads(threads or (1 if case.small else cores()))
    keep_freed_memory()
    torch.manual_seed(0)
    return torch.get_num_threads()


def disagreement(contenders: Contenders) -> dict[str, float]:
    """The largest difference of what each found from what metarun did, relative to the largest number of it."""
    found = {name: torch.cat([part.flatten().cpu() for part in call()]) for name, call in contenders.items()}
    own = found.pop("metarun")
    return {name: float((other - own).abs().max() / own.abs().max()) for name, other in found.items()}


def operations(case: Case) -> int:
    """Floating-point operations of matrix products and convolutions: of the loop, which does nothing in vain and groups nothing."""
    contenders = case.make(Place(torch.device("cpu"), 1))
    with FlopCounterMode(display=False) as counter:
        contenders.get("loop", contenders["metarun"])()
    return int(counter.get_total_flops()) * case.tasks


def seconds_of(call: Callable[[], Any], times: int, device: torch.device, *, own_clock: bool = False) -> float:
    if own_clock:
        return float(call())
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return (time.perf_counter() - began) / times


def in_turns(contenders: Contenders, device: torch.device, seconds: float, *, own_clock: bool = False) -> dict[str, list[float]]:
    """Seconds of each in every round, of about ``seconds`` in all: at least three rounds, of 20 ms or more each."""
    times = dict.fromkeys(contenders, 1)
    spent = 0.0
    for name, call in contenders.items():
        if own_clock:
            continue
        call()
        while (took := seconds_of(call, times[name], device) * times[name]) < 0.02:
            times[name] *= 4
        spent += took
    rounds = max(3, int(seconds / 3) if own_clock else min(25, int(seconds / spent)))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            found[name].append(seconds_of(call, times[name], device, own_clock=own_clock))
    return found


def product(size: int, device: torch.device) -> Callable[[], Tensor]:
    a, b = (torch.rand(size, size, device=device) for _ in range(2))
    return partial(torch.mm, a, b, out=torch.empty_like(a))


@cache
def fastest_product(device: torch.device, threads: int) -> int:
    """The size of square matrices, of some, whose float32 product this machine makes at the highest rate."""
    sizes = (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192)
    took = {size: min(in_turns({"": product(size, device)}, device, 0.2)[""]) for size in sizes}
    return max(sizes, key=lambda size: size**3 / took[size])


def peak(name: str, contender: str, threads: int) -> float:
    """MiB that one turn of a contender needs at its peak; run in a process of its own."""
    case, cpu = EVERY[name], torch.device("cpu")
    settle(case, threads)
    for tiny in (Shape("sine", 1, 0, 1, 1), Shape("Omniglot", 1, 2, 1, 1, strided=True)):
        for call in work.maml(tiny, Place(cpu)).values():  # what torch and the libraries allocate once
            call()
    call = case.make(Place(cpu))[contender]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def peaks(case: Case, contenders: Contenders, device: torch.device, threads: int) -> dict[str, float]:
    if device.type == "cuda":
        found = {}
        for name, call in contenders.items():
            call()  # what is allocated once
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            call()
            found[name] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return found
    server = multiprocessing.get_context("forkserver")  # a clean process each, and torch imported once
    server.set_forkserver_preload(["hydra", "metarun.run", "torch.utils.flop_counter", *LIBRARIES])
    with server.Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(peak, (case.name, name, threads)) for name in contenders}


def measure(case: Case, device: torch.device, threads: int | None, seconds: float) -> dict[str, Any]:
    """A row: seconds (quartiles), ratios to metarun and memory by contender, and the verdict on each goal."""
    used = settle(case, threads)
    contenders = case.make(Place(device))
    memory = {} if case.own_clock else peaks(case, {n: c for n, c in contenders.items() if n != "step"}, device, used)
    flops = 0 if case.own_clock else operations(case)
    size = fastest_product(device, used) if flops else 0
    if flops:
        contenders["product"] = product(size, device)
    found = {name: np.array(of) for name, of in in_turns(contenders, device, seconds, own_clock=case.own_clock).items()}
    rate = 2 * size**3 / found.pop("product") if flops else None
    if rate is not None:
        found["floor"] = flops / rate
    return {
        "name": case.name,
        "threads": used,
        "rounds": len(found["metarun"]),
        "flops": flops,
        "flops_per_second": None if rate is None else float(np.median(rate)),
        "seconds": {name: np.percentile(of, [25, 50, 75]).tolist() for name, of in found.items()},
        "ratio": {name: float(np.median(of / found["metarun"])) for name, of in found.items()},
        "memory_mib": memory,
        "goals": verdicts(case, found, device.type),
    }


def verdicts(case: Case, found: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    """Of each goal whether it is met, and the ratio of metarun's time to the longest that would meet it."""
    goals = [goal for goal in case.goals if goal.device in (None, device)]
    if "loop" in found and not any(goal.against == "loop" for goal in goals):
        goals.append(AHEAD)
    said = []
    for goal in goals:
        against = 1.0 if goal.against == "second" else found.get(goal.against)
        if against is not None:
            of_limit = float(np.median(np.asarray(found["metarun"]) / against)) / goal.factor
            said.append({"goal": goal.said, "met": of_limit <= 1, "of_limit": of_limit})
    return said


CATEGORIES = {
    "convolution": ("conv",),
    "batch norm": ("batchnorm", "batch_norm"),
    "pooling": ("pool",),
    "relu": ("relu", "threshold"),
    "matrix products": ("aten::mm", "addmm", "bmm", "linear"),
    "optimizer": ("adam",),
}


def where_time_goes(case: Case, device: torch.device, threads: int | None) -> dict[str, float]:
    """Shares of an update by kind of operation; what belongs to an operation's gradient counts as that operation."""
    settle(case, threads)
    update = case.make(Place(device))["metarun"]
    update()
    times = max(1, min(50, int(0.5 / seconds_of(update, 1, device))))  # a short one may be held up by others
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        seconds_of(update, times, device)
    shares: dict[str, float] = defaultdict(float)
    for event in profiler.events() or []:
        if event.device_type.name != "CPU":  # a kernel's time is told by the operation that launched it, too
            continue
        kind, above = "the rest", event
        while above is not None and kind == "the rest":
            name = above.name.lower()
            kind = next((kind for kind, parts in CATEGORIES.items() if any(part in name for part in parts)), kind)
            above = above.cpu_parent
        shares[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: shares[kind] / total for kind in sorted(shares, key=shares.__getitem__, reverse=True)}


def machine(device: torch.device) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", *LIBRARIES) if package not in missing()},
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
    }


# Showing ----------------------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    unit, scale = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e3)) if seconds * s >= 1), ("µs", 1e6))
    return f"{seconds * scale:.3g} {unit}"


def mebibytes(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else "< 1"


def table(rows: Sequence[Mapping[str, Any]], absent: set[str]) -> str:
    """Markdown: how many times metarun's time each of the others takes; MiB in the order of the columns."""
    columns = [f"{name} (not installed)" if name in absent else name for name in PEERS]
    lines = [["work", "threads", "metarun (quartiles)", "per second", *columns, "MiB: metarun, higher, torchopt, loop", "goals"]]
    lines.append(["---"] * len(lines[0]))
    for of in rows:
        low, middle, high = of["seconds"]["metarun"]
        ratios = [f"{of['ratio'][name]:.3g} ×" if name in of["ratio"] else "" for name in PEERS]
        memory = [mebibytes(of["memory_mib"][name]) if name in of["memory_mib"] else "–" for name in ("metarun", *PEERS[:3])]
        said = [f"{g['goal']}: " + ("met" if g["met"] else f"missed by {g['of_limit']:.3g} ×") for g in of["goals"]]
        others = {name: times[1] for name, times in of["seconds"].items() if name not in ("metarun", *PEERS)}
        said += [f"{name} {duration(took)}: {1 / of['ratio'][name]:.1%} of it" for name, took in others.items()]
        speed = [
            duration(middle) + f" ({duration(low)} – {duration(high)})",
            f"{1 / middle:,.3g}" if middle > 0.01 else f"{1 / middle:,.0f}",
        ]
        lines.append([of["name"], str(of["threads"]), *speed, *ratios, ", ".join(memory), "; ".join(said)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(rows: Sequence[Mapping[str, Any]], curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Ratios of every row, and under them time and memory along each curve."""
    from matplotlib.figure import Figure

    shown = [of for of in rows if set(PEERS) & set(of["ratio"])][::-1]
    names = list(dict.fromkeys(of["curve"] for of in curves))
    height = 0.32 * len(shown) + 1
    figure = Figure(figsize=(11, height + 5.5 * bool(names)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, 5.5]) if names else [figure]
    bars = parts[0].subplots()
    for name, colour in zip(PEERS, ("#c0392b", "#7fb3d5", "#2471a3", "#222222"), strict=True):
        at = [(of["ratio"][name], place) for place, of in enumerate(shown) if name in of["ratio"]]
        bars.plot(*(zip(*at, strict=True) if at else ([], [])), "|" if name == "floor" else "o", color=colour, label=name)
    bars.axvline(1, color="#222222", linewidth=1, label="metarun")
    bars.set(xscale="log", xlabel="time, metarun = 1")
    bars.set_yticks(range(len(shown)), [of["name"] for of in shown], fontsize=7)
    bars.grid(axis="y", color="#eeeeee")
    bars.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for part in parts[1:]:
        axes = part.subplots(2, len(names), squeeze=False)
        for place, name in enumerate(names):
            of = [point for point in curves if point["curve"] == name]
            for ax, key in zip(axes[:, place], ("seconds", "memory_mib"), strict=True):
                for way, colour in zip(of[0]["memory_mib"], ("#2471a3", "#c0392b", "#7fb3d5"), strict=True):
                    values = [point[key][way][1] if key == "seconds" else point[key][way] for point in of]
                    ax.plot([point["x"] for point in of], values, marker="o", markersize=3, color=colour, label=way)
                if key == "seconds":
                    ax.plot(
                        [point["x"] for point in of], [point[key]["floor"][1] for point in of], ":", color="#222222", label="floor"
                    )
                ax.set(xlabel=name, xlim=(0, None), ylim=(0, None))
        axes[0, 0].set_ylabel("seconds of an update")
        axes[1, 0].set_ylabel("peak memory, MiB")
        axes[0, 0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def report(found: Mapping[str, Any], folder: Path) -> str:
    """Write results.json, table.md and benchmark.png → the page."""
    here = found["machine"]
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in here.items() if value is not None)
    goes = [
        f"- {name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in of.items()) for name, of in found["profiles"].items()
    ]
    page = "\n".join([about, "", table(found["rows"], missing()), "", "Where the time goes:", "", *goes, ""])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"results.json": json.dumps(found, indent=1), "table.md": page}.items():
        beside = folder / f".{name}.writing"
        beside.write_text(text)
        beside.replace(folder / name)
    draw(found["rows"], found["curves"], folder / "benchmark.png")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some rows and no curves, two minutes")
    parser.add_argument("--rows", metavar="PATTERN", help="rows whose name contains it; * stands for anything")
    parser.add_argument("--threads", type=int, help="of the CPU; else one for sine and all cores for images, as metarun chooses")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU here")
    device = torch.device(given.device)
    chosen = [case for case in CASES if given.rows or case.quick or not given.quick]
    chosen = [case for case in chosen if fnmatchcase(case.name, f"*{given.rows or ''}*")]
    if not chosen:
        sys.exit(f"--rows {given.rows}: no row has such a name; there are\n" + "\n".join(case.name for case in CASES))
    began = time.perf_counter()

    def tell(text: str) -> None:
        print(f"{time.perf_counter() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    for name in sorted(missing()):
        tell(f"{name} is not installed, so it is left out: pip install 'metarun[bench]'")
    for case in chosen:
        if case.exact:
            settle(case, given.threads)
            found = disagreement(case.make(Place(device, min(2, case.tasks), torch.float64)))
            if found:
                tell(f"{case.name}: in float64 " + ", ".join(f"{name} differs by {d:.1e}" for name, d in found.items()))
            if any(not d <= AGREE for d in found.values()):
                sys.exit(f"{case.name}: contenders do not compute the same: {found}, and {AGREE} is the most allowed")
    rows, curves = [], []
    for case in chosen:
        tell(case.name)
        rows.append(measure(case, device, given.threads, 2 if given.quick else 15))
    for name, points in ({} if given.quick or given.rows else CURVES).items():
        for x, case in points.items():
            tell(f"{name} {x}")
            curves.append({"curve": name, "x": x, **measure(case, device, given.threads, 3)})
    profiled = [case for case in chosen if case.goals and "MAML" in case.name]
    results = {
        "machine": machine(device),
        "rows": rows,
        "curves": curves,
        "profiles": {case.name: where_time_goes(case, device, given.threads) for case in profiled},
    }
    print(report(results, given.out))


if __name__ == "__main__":
    main()
