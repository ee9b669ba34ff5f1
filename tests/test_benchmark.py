"""The benchmark, as far as it needs no clock."""

import json
from dataclasses import replace

import benchmark
import pytest
import torch
import work
from benchmark import AGREE, CASES, EVERY, Case, Goal, Place, disagreement, operations, table, verdicts
from torch.nn import functional as F
from work import LIBRARIES

CPU = torch.device("cpu")


WAVES, IMAGES = work.Shape("sine", 2, 0, 10, 10), work.Shape("Omniglot", 2, 3, 1, 2)
STRIDED = replace(IMAGES, strided=True)


def check(contenders):
    found = disagreement(contenders)
    assert found
    assert max(found.values()) < AGREE


@pytest.mark.parametrize("shape", [WAVES, IMAGES, STRIDED], ids=["waves", "images", "strided"])
@pytest.mark.parametrize("first_order", [False, True])
def test_all_compute_the_same_meta_gradient(shape, first_order):
    contenders = work.maml(shape, Place(CPU, None, torch.float64), steps=2, first_order=first_order)
    libraries = {"higher"} if first_order else set(LIBRARIES)
    assert set(contenders) == {"metarun", "loop"} | (libraries - work.missing())
    for _ in range(2):  # the first turn leaves nothing behind that changes the second
        check(contenders)


@pytest.mark.parametrize("shape", [WAVES, IMAGES], ids=["waves", "images"])
@pytest.mark.parametrize("make", [work.reptile, work.evaluation])
def test_loops_do_the_same(make, shape):
    check(make(shape, Place(CPU, None, torch.float64), steps=3))


def test_the_loop_of_prototypes_does_the_same():
    check(work.protonet(IMAGES, Place(CPU, None, torch.float64)))


def test_the_loop_over_examples_finds_the_same_fisher():
    check(work.of_fisher(3, Place(CPU, None, torch.float64), sampled=False))


def test_own_ways_do_the_same():
    check(work.variants(IMAGES, Place(CPU, None, torch.float64), steps=2))


def test_sampling_loops_make_tasks_of_the_same_shape():
    for shape in (WAVES, IMAGES):
        contenders, of = work.sampling(shape, Place(CPU)), shape.episodes(Place(CPU))
        contenders["metarun"]()
        support, query = contenders["loop"]()
        if shape is WAVES:  # inputs and targets there
            assert support.shape[1] == query.shape[1] == of.support.x.shape[1] + of.query.x.shape[1]
        else:
            assert (support.shape, query.shape) == (of.support.x.shape, of.query.x.shape)
            assert support.max() <= 1


def test_the_trainer_is_timed_with_all_that_it_does(monkeypatch, capsys):
    monkeypatch.setattr(work, "UPDATES", 50)
    seconds = {name: call() for name, call in work.trainer(Place(CPU)).items()}
    assert 0 < seconds["bare loop"] < 0.5
    assert 0 < seconds["metarun"] < 0.5
    assert capsys.readouterr() == ("", "")


def test_another_rate_is_seen(monkeypatch):
    def of(name, rate):
        torch.manual_seed(0)
        monkeypatch.setattr(work, "RATE", rate)
        return work.maml(WAVES, Place(CPU, None, torch.float64))[name]

    assert disagreement({"metarun": of("metarun", 0.01), "loop": of("loop", 0.01)})["loop"] < AGREE
    assert disagreement({"metarun": of("metarun", 0.01), "loop": of("loop", 0.011)})["loop"] > AGREE


def test_every_row_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
    assert any(case.quick for case in CASES)


def test_operations_are_those_counted_by_hand():
    a, b, image, kernel = torch.rand(3, 5), torch.rand(5, 7), torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3)
    case = Case("", lambda place: {"loop": lambda: (a @ b, F.conv2d(image, kernel, padding=1)), "metarun": list}, tasks=10)
    assert operations(case) == 10 * (2 * 3 * 5 * 7 + 2 * 2 * 4 * 8 * 8 * 3 * 3 * 3)
    # Support and query each: forward, the weights' gradient, and the inputs' but for those of the first layer.
    forward, first = 2 * 10 * (40 + 40 * 40 + 40), 2 * 10 * 40
    assert operations(EVERY["sine 10-shot, 25 tasks: first-order MAML, 1 step"]) == 25 * 2 * (3 * forward - first)
    assert operations(EVERY["sine 10-shot, 25 tasks: MAML, 1 step"]) > 25 * 2 * (3 * forward - first)


def test_verdicts():
    goals = (
        Goal("≥ 4 × higher", "higher", 1 / 4),
        Goal("≤ 2.5 × floor", "floor", 2.5),
        Goal("< 5 s", "second", 5.0),
        Goal("≥ 10 × higher", "higher", 1 / 10, "cuda"),
        Goal("≥ 2 × torchopt", "torchopt", 1 / 2),
    )
    found = {"metarun": [2.0, 2.0, 9.0], "higher": [10.0, 10.0, 45.0], "floor": [0.5, 0.5, 0.5], "loop": [1.9, 1.9, 10.0]}
    found = {name: torch.tensor(values).numpy() for name, values in found.items()}
    said = {one["goal"]: one for one in verdicts(Case("", dict, goals=goals), found, "cpu")}
    assert {goal: one["met"] for goal, one in said.items()} == {
        "≥ 4 × higher": True,
        "≤ 2.5 × floor": False,
        "< 5 s": True,
        "≥ loop": False,
    }
    assert said["≤ 2.5 × floor"]["of_limit"] == pytest.approx(1.6)
    assert [one["goal"] for one in verdicts(Case("", dict, goals=goals), found, "cuda")] == ["≥ 10 × higher", "≥ loop"]


def test_table():
    of = {
        "name": "sine: MAML",
        "threads": 1,
        "seconds": {"metarun": [0.0019, 0.002, 0.0021], "loop": [0.02] * 3, "step": [0.1] * 3},
        "ratio": {"metarun": 1.0, "loop": 10.04, "step": 50.0},
        "memory_mib": {"metarun": 0.5, "loop": 1234.5},
        "goals": [{"goal": "≥ 12 × loop", "met": False, "of_limit": 1.2}, {"goal": "≥ 1 × loop", "met": True, "of_limit": 0.1}],
    }
    head, _, line = ([cell.strip() for cell in row.strip("|").split("|")] for row in table([of], {"higher"}).splitlines())
    row = dict(zip(head, line, strict=True))
    assert row["metarun (quartiles)"] == "2 ms (1.9 ms – 2.1 ms)"
    assert row["per second"] == "500"
    assert row["loop"] == "10 ×"
    assert row["higher (not installed)"] == row["torchopt"] == ""
    assert row["MiB: metarun, higher, torchopt, loop"] == "< 1, –, –, 1,234"
    assert row["goals"] == "≥ 12 × loop: missed by 1.2 ×; ≥ 1 × loop: met; step 100 ms: 2.0% of it"


def test_a_row_without_the_libraries_is_measured_and_reported(monkeypatch, tmp_path):
    for module in (work, benchmark):
        monkeypatch.setattr(module, "missing", lambda: set(LIBRARIES))
    monkeypatch.setattr(benchmark, "peaks", lambda case, contenders, *_: dict.fromkeys(contenders, 1.0))
    monkeypatch.setattr(benchmark, "fastest_product", lambda device, threads: 64)
    monkeypatch.setattr(benchmark, "cores", lambda: 1)
    row = benchmark.measure(EVERY["sine 10-shot, 25 tasks: MAML, 1 step"], CPU, 1, 0.0)
    assert set(row["ratio"]) == {"metarun", "loop", "floor"}
    assert row["rounds"] == 3
    assert row["seconds"]["floor"][1] == pytest.approx(row["flops"] / row["flops_per_second"])
    ways = ("metarun", "one piece", "recomputed")
    point = {"curve": "tasks", "seconds": {way: [1, 2, 3] for way in (*ways, "floor")}, "memory_mib": dict.fromkeys(ways, 5)}
    curves = [{**point, "x": x} for x in (1, 2)]
    machine = benchmark.machine(CPU)
    assert "higher" not in machine
    found = {"machine": machine, "rows": [row], "curves": curves, "profiles": {"it": {"convolution": 0.4}}}
    page = benchmark.report(found, tmp_path)
    assert "higher (not installed)" in page
    assert "- it: convolution 40%" in page
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["name"] == row["name"]
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "benchmark.png"}


def test_shares_of_a_profile_are_those_of_a_convolutional_network():
    small = work.Shape("Omniglot", 1, 2, 1, 1)
    shares = benchmark.where_time_goes(benchmark.maml(small, 1), CPU, 1)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares["convolution"], shares["batch norm"]) > shares["matrix products"]


def test_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert not stop.value.code
    assert "--quick" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--rows", "nothing like it"])
    with pytest.raises(SystemExit, match="no row has such a name"):
        benchmark.main()


def test_it_stops_where_contenders_differ(monkeypatch, tmp_path):
    monkeypatch.setattr(
        benchmark, "CASES", [Case("a", lambda place: {n: lambda n=n: [torch.ones(2) * len(n)] for n in ("metarun", "x")})]
    )
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="do not compute the same"):
        benchmark.main()
