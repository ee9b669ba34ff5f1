"""What only a GPU can show; skipped where there is none."""

import json

import pytest
import torch
from runs import assert_same, run_in, weights
from shared_out import CASES, made, method
from small import LINE, mlp
from updates import loop_of

from metarun.algo.maml import MAML
from metarun.config import CONFIGS
from metarun.data.classes import Classes
from metarun.data.images import ImageTasks
from metarun.data.sine import Sine
from metarun.data.source import TaskShape
from metarun.rng import bits
from metarun.trainer.guard import Guard

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_tasks_are_the_same_on_both_devices():
    ids = torch.tensor([0, 5, 10**12])
    assert torch.equal(bits(9, ids.cuda(), 50).cpu(), bits(9, ids, 50))
    images = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8)
    classes = Classes(torch.arange(0, 300, 20), torch.full((15,), 20))
    on = {d: ImageTasks(3, images.to(d), classes, TaskShape(5, 1, 3)).sample(ids) for d in ("cpu", "cuda")}
    assert torch.equal(on["cuda"].query.x.cpu(), on["cpu"].query.x)
    waves = {d: Sine(0).stages(torch.device(d))[0].test.sample(ids) for d in ("cpu", "cuda")}
    assert torch.equal(waves["cuda"].support.x.cpu(), waves["cpu"].support.x)


def test_an_update_is_taken_back_without_waiting():
    torch.manual_seed(0)
    algorithm = MAML(LINE, mlp, 0.01).cuda()
    optimizer = torch.optim.Adam(algorithm.parameters(), fused=True)
    guard = Guard(algorithm, optimizer)
    for w in algorithm.parameters():
        w.grad = torch.full_like(w, torch.nan)
    before = [w.clone() for w in algorithm.parameters()]
    loss, bad = torch.tensor([torch.inf, 1.0], device="cuda").unbind()
    torch.cuda.set_sync_debug_mode("error")
    try:
        guard.begin()
        guard.judge(loss, bad)
        optimizer.step()
        guard.end()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.counts.tolist() == [1, 1]
    assert all(torch.equal(w, b) for w, b in zip(algorithm.parameters(), before, strict=True))


def test_deterministic_runs_end_with_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        run_in(tmp_path / name, "trainer.deterministic=true", "trainer.device=cuda", "trainer.iterations=30")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))


ALGORITHMS = sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))
NETWORKS = [f"metalearner algo.network={name}" for name in ("lstm", "mann", "snail", "hypernet")]
EMBEDDINGS = ["taskembed algo.encoder=similarity algo.condition=gates", "taskembed algo.adapt=nearest"]
ON_IMAGES = {"protonet", "matchingnet", "relationnet"}


@pytest.mark.parametrize("algo", [*ALGORITHMS, *NETWORKS, *EMBEDDINGS])
def test_every_algorithm_trains(metarun, algo, request):
    short = ("trainer.device=cuda", "trainer.iterations=20", "trainer.test_tasks=20", "hydra.run.dir=run")
    data = "sine"
    if algo in ON_IMAGES:
        request.getfixturevalue("data_root")
        data = "omniglot"
    metarun(*f"algo={algo}".split(), f"data={data}", *short)
    found = json.loads((metarun.folder / "run/results.json").read_text())
    assert found["status"] == "finished"
    assert found["environment"]["device"].startswith("cuda")


def begun(algo, data, cl, keys, device, path):
    """The loop of a training, about to make its first update, and its tasks."""
    stages, learner = made(algo, data, torch.device(device))
    adam = {"_target_": "torch.optim.Adam", "lr": 0.01}
    loop = loop_of(path, learner, stages, method(cl), **({"tasks": 4, "optimizer": adam} | keys))
    return loop, loop.feed.batches(stages[0].train, 0, 100)


@pytest.mark.parametrize("name", [name for name, (_, _, _, keys) in CASES.items() if "detect" not in keys])
def test_no_update_waits_for_the_device(name, tmp_path):
    loop, batches = begun(*CASES[name], "cuda", tmp_path)
    for _ in range(3):  # what is made once, and the first tasks
        loop.step(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(70):  # more than are sampled at once
            loop.step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
