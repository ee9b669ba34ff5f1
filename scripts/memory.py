"""Measure the peak memory of an update by inner steps, for MAML, MAML with recomputation and implicit MAML; draw docs/memory.png.

    python scripts/memory.py        two minutes

Each measurement runs in a separate process: peak resident memory during the update minus resident memory before it.
"""

import multiprocessing
import resource
from pathlib import Path

import torch

from metarun.algo.algorithm import Algorithm
from metarun.algo.imaml import IMAML
from metarun.algo.maml import MAML
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.model.conv4 import Conv4
from metarun.model.network import Network

STEPS = (1, 2, 4, 8, 16, 32)
TASKS, WAYS, SHOTS, SIDE = 4, 5, 5, 28
SPEC = TaskSpec(CLASSIFICATION, (1, SIDE, SIDE), WAYS, WAYS, "noise")


def network(outputs: int | None, input_shape: tuple[int, ...] | None = None) -> Network:
    return Conv4(input_shape or SPEC.input_shape, outputs, filters=32)


def learner(name: str, steps: int) -> Algorithm:
    if name == "imaml":
        return IMAML(SPEC, network, inner_lr=0.01, inner_steps=steps, task_chunk=TASKS)
    return MAML(SPEC, network, inner_lr=0.01, inner_steps=steps, recompute="recomputed" in name, task_chunk=TASKS)


def peak(name: str, steps: int) -> float:
    """Peak memory of one update in MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    y = torch.arange(WAYS).repeat_interleave(SHOTS).expand(TASKS, -1)
    examples = Examples(torch.rand(TASKS, WAYS * SHOTS, 1, SIDE, SIDE), y, WAYS)
    tasks = Episodes(examples, examples)
    learner(name, 1).backward(Episodes(examples.tasks(slice(0, 1)), examples.tasks(slice(0, 1))))  # one-time allocations of torch
    algorithm = learner(name, steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    algorithm.backward(tasks)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in ("maml", "maml, recomputed", "imaml"):
            peaks = [pool.apply(peak, (name, steps)) for steps in STEPS]
            print(name, {steps: round(mib) for steps, mib in zip(STEPS, peaks, strict=True)}, flush=True)
            axes.plot(STEPS, peaks, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel="peak memory of an update, MiB", xticks=STEPS)
    axes.set_yticks([200, 500, 1000, 2000], ["200", "500", "1000", "2000"])
    axes.set_xticklabels([str(steps) for steps in STEPS])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(Path(__file__).parent.parent / "docs/memory.png", dpi=110)


if __name__ == "__main__":
    main()
