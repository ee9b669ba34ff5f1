"""MNIST: the official files, damaged ones in one line, and the streams made of it."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from metarun.config import ConfigError
from metarun.data.mnist import MNIST, permute, read_idx, rotate

CPU = torch.device("cpu")
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def idx(path: Path, magic: int, shape: tuple[int, ...], values: bytes) -> None:
    path.write_bytes(gzip.compress(struct.pack(f">{1 + len(shape)}I", magic, *shape) + values))


def test_idx_files_are_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    idx(tmp_path / IMAGES, 2051, (3, 28, 28), values.tobytes())
    idx(tmp_path / LABELS, 2049, (3,), bytes([9, 0, 5]))
    assert np.array_equal(read_idx(tmp_path / IMAGES, 3), values)
    assert read_idx(tmp_path / LABELS, 3).tolist() == [9, 0, 5]


def truncated(path: Path) -> None:
    idx(path, 2051, (3, 28, 28), np.random.default_rng(0).bytes(3 * 784))
    path.write_bytes(path.read_bytes()[:1000])


DAMAGE = {
    "html": (IMAGES, lambda p: p.write_text("<html>no quota</html>"), "not a readable gzip file"),
    "empty": (IMAGES, lambda p: p.write_bytes(b""), "expected an idx file"),
    "truncated": (IMAGES, truncated, "not a readable gzip file"),
    "labels for images": (IMAGES, lambda p: idx(p, 2049, (3,), bytes(3)), "expected an idx file of 3 images of 28×28"),
    "short": (IMAGES, lambda p: idx(p, 2051, (3, 28, 28), bytes(5)), "expected an idx file of 3 images"),
    "long": (LABELS, lambda p: idx(p, 2049, (3,), bytes(4)), "expected an idx file of 3 labels"),
    "another size": (IMAGES, lambda p: idx(p, 2051, (3, 32, 32), bytes(3 * 32 * 32)), "expected an idx file"),
    "no digit": (LABELS, lambda p: idx(p, 2049, (3,), bytes([1, 2, 10])), "expected labels 0 to 9, found 10"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(tmp_path, damage):
    name, spoil, message = DAMAGE[damage]
    spoil(tmp_path / name)
    with pytest.raises(ConfigError, match=message) as caught:
        read_idx(tmp_path / name, 3)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_views():
    images = torch.rand(2, 1, 28, 28)
    order = torch.from_numpy(np.random.default_rng(0).permutation(784))
    assert torch.equal(permute(images, order).flatten(2)[..., 5], images.flatten(2)[..., order[5]])
    torch.testing.assert_close(rotate(images, 90.0), torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(rotate(images, 0.0), images, rtol=0, atol=1e-5)


@pytest.fixture
def small(monkeypatch):
    """Two images of each digit in each split, as bright as the digit."""
    sizes = np.full(30, 2)
    images = np.tile(np.arange(10), 3).repeat(2).astype(np.uint8)[:, None, None, None] * np.ones((1, 28, 28), np.uint8)
    monkeypatch.setattr("metarun.data.archives.cached", lambda *_: {"images": images, "sizes": sizes})


def digits_of(data: MNIST, split: str) -> list[list[int]]:
    """By stage, the digits that are shown under its labels 0, 1, … in the scenario domain."""
    shown = []
    for stage in data.stages(CPU):
        query = getattr(stage, split).in_order().sample(torch.arange(4)).query
        pairs = zip(query.y.flatten().tolist(), (query.x.amax((1, 2, 3, 4)) * 255).round().int().tolist(), strict=True)
        shown.append([digit for _, digit in sorted(set(pairs))])
    return shown


def test_pairs_of_digits_by_the_seed(small):
    """van de Ven et al. 2022 draw other pairs for each seed, and which of the two has the label 0."""
    drawn = {}
    for seed in range(6):
        data = MNIST(seed, scenario="domain", stages=5, stage_by="random")
        drawn[seed] = digits_of(data, "train")
        assert digits_of(data, "test") == digits_of(data, "val") == drawn[seed]
        assert sorted(digit for pair in drawn[seed] for digit in pair) == list(range(10))
        assert [stage.name for stage in data.stages(CPU)] == [f"digits {a}, {b}" for a, b in drawn[seed]]
        data.redraw(99)  # other tasks of the same pairs
        assert digits_of(data, "test") == drawn[seed]
    assert len({str(pairs) for pairs in drawn.values()}) == 6
    assert any(a > b for pairs in drawn.values() for a, b in pairs)
    assert digits_of(MNIST(3, scenario="domain", stages=5), "test") == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    names = [stage.name for stage in MNIST(0, scenario="class", stages=10, stage_by="random").stages(CPU)]
    assert sorted(names) == [f"digit {i}" for i in range(10)]
    with pytest.raises(ConfigError, match="stages=11: expected 1 to 10"):
        MNIST(0, stages=11, stage_by="random")


@pytest.fixture(scope="module")
def real(data_root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARUN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield lambda **keys: MNIST(0, root=str(data_root), **keys)


def test_the_whole_set(real):
    data = real()
    assert data.images.shape == (70000, 1, 28, 28)
    sizes = {split: classes.size.tolist() for split, classes in data.splits.items()}
    assert sizes["test"] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = [a + b for a, b in zip(sizes["train"], sizes["val"], strict=True)]
    assert both == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert sum(sizes["val"]) == 5000


def test_streams(real):
    split = real(stages=5, ways=2).stages(CPU)
    assert [stage.name for stage in split] == ["digits 0-1", "digits 2-3", "digits 4-5", "digits 6-7", "digits 8-9"]
    with pytest.raises(ConfigError, match=r"data\.ways=5: expected at most the 2 classes of the train split of stage digits 0-1"):
        real(stages=5)
    plain = real().stages(CPU)[0].test.sample(torch.arange(3)).query.x
    permuted = real(stages=3, stage_by="permutation").stages(CPU)
    assert torch.equal(permuted[0].test.sample(torch.arange(3)).query.x, plain)
    second = permuted[1].test.sample(torch.arange(3)).query.x
    assert second.shape == plain.shape
    assert not torch.equal(second, permuted[2].test.sample(torch.arange(3)).query.x)
    rotated = real(stages=4, stage_by="rotation").stages(CPU)
    assert [stage.name for stage in rotated] == ["0 degrees", "45 degrees", "90 degrees", "135 degrees"]
    assert rotated[2].train.sample(torch.arange(3)).query.x.min() >= 0
    with pytest.raises(ConfigError, match="stages=11: expected 1 to 10"):
        real(stages=11, ways=2)


def test_a_stream_of_stages_trains(real, here, data_root):
    keys = ("trainer.iterations=2", "trainer.test_tasks=4", "trainer.figures=false", "model.filters=4", "hydra.run.dir=run")
    out = here("algo=protonet", "data=mnist", f"data.root={data_root}", "data.stages=5", "data.ways=2", *keys).stdout
    assert "over 5 stages" in out
