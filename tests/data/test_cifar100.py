"""CIFAR-100 from its official binary layout, damaged archives in one line, the two few-shot splits."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from metarun.build import build
from metarun.config import CONFIGS, ConfigError
from metarun.data import archives, cifar100
from metarun.data.cifarfs import CIFARFS
from metarun.data.fc100 import FC100

CPU = torch.device("cpu")
MEMBERS = {"train.bin": 2, "test.bin": 1}
CLASSES_PER_SPLIT = {"cifarfs": (64, 16, 20), "fc100": (60, 20, 20)}


def names() -> list[str]:
    lists = Path(cifar100.__file__).parent / "splits" / "fc100"
    return sorted(name for file in lists.glob("*.txt") for name in file.read_text().split())


def records(per_class: int) -> bytes:
    """Every image is its class number in red, its place among its class's in green and 7 in blue; classes interleaved."""
    rows = np.zeros((per_class * 100, cifar100.RECORD), np.uint8)
    rows[:, 1] = np.tile(np.arange(100), per_class)
    rows[:, 0] = rows[:, 1] % 20  # five classes a superclass
    rows[:, 2 : 2 + 1024] = rows[:, 1:2]
    rows[:, 2 + 1024 : 2 + 2048] = np.repeat(np.arange(per_class), 100)[:, None]
    rows[:, 2 + 2048 :] = 7
    return rows.tobytes()


def archive(path: Path, **changed: bytes | None) -> Path:
    files = {"train.bin": records(2), "test.bin": records(1), "fine_label_names.txt": "\n".join(names()).encode()}
    files |= {key.replace("_bin", ".bin"): value for key, value in changed.items() if key.endswith("_bin")}
    files |= {"fine_label_names.txt": changed["names"]} if "names" in changed else {}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            if content is not None:
                info = tarfile.TarInfo(f"cifar-100-binary/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_images_lie_class_after_class(tmp_path):
    decoded = cifar100.decode(archive(tmp_path / "a.tar.gz"), MEMBERS)
    images = decoded["images"]
    assert images.shape == (300, 3, 32, 32)
    assert (images[:, 0, 0, 0] == np.repeat(np.arange(100), 3)).all()
    assert images[3:6, 1, 5, 9].tolist() == [0, 1, 0]  # two of train.bin, then the one of test.bin
    assert (images[:, 2] == 7).all()


def truncated(path: Path) -> None:
    content = archive(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


FISH = {"aquarium_fish", "flatfish", "ray", "shark", "trout"}
one_more = records(2) + records(1)[: cifar100.RECORD]
wrong_class = bytearray(records(2))
wrong_class[1] = 5
DAMAGE = {
    "html": (lambda path: path.write_text("<html>quota exceeded</html>"), "not a readable tar.gz"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable tar.gz"),
    "truncated": (truncated, "not a readable tar.gz"),
    "file missing": (lambda path: archive(path, test_bin=None), r"no test\.bin in it"),
    "names missing": (lambda path: archive(path, names=None), r"no fine_label_names\.txt in it"),
    "a name short": (lambda path: archive(path, names=b"apple pear"), "expected 100 names, found 2"),
    "short": (lambda path: archive(path, train_bin=records(2)[:-5]), r"train\.bin: expected 614,800 bytes, found 614,795"),
    "long": (lambda path: archive(path, train_bin=one_more), r"train\.bin: expected 614,800 bytes, found 614,801"),
    "labels": (lambda path: archive(path, train_bin=bytes(wrong_class)), "expected 2 images of each class, found 3 of class 5"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_archives_are_named(tmp_path, damage):
    spoil, message = DAMAGE[damage]
    path = tmp_path / cifar100.ARCHIVE
    spoil(path)
    with pytest.raises(ConfigError, match=message) as caught:
        cifar100.decode(path, MEMBERS)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A whole CIFAR-100 of 30 images a class instead of 600."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cifar100, "MEMBERS", {"train.bin": 20, "test.bin": 10})
    (tmp_path / "cifar100").mkdir()
    archive(tmp_path / "cifar100" / cifar100.ARCHIVE, train_bin=records(20), test_bin=records(10))
    return str(tmp_path)


@pytest.mark.parametrize("data", [CIFARFS, FC100])
def test_splits_share_no_class(small, data):
    made = data(0, root=small)
    parts = [set((classes.start // 30).tolist()) for classes in made.splits.values()]
    assert tuple(map(len, parts)) == CLASSES_PER_SPLIT[made.name]
    assert set.union(*parts) == set(range(100))
    tasks = made.stages(CPU)[0].test.sample(torch.arange(5))
    assert tasks.support.x.shape == (5, 5, 3, 32, 32)
    assert tasks.query.x.shape == (5, 75, 3, 32, 32)
    red = (tasks.query.x[:, :, 0, 0, 0] * 255).round().long()
    by_class = red.view(5, 5, 15)
    assert (by_class == by_class[:, :, :1]).all()  # the images of a class are of one class
    assert set(red.flatten().tolist()) <= parts[2]


def test_stages_are_groups_of_superclasses(small):
    data = CIFARFS(0, root=small, stages=4, ways=3, queries=5)
    stages = data.stages(CPU)
    assert [stage.name for stage in stages] == [f"superclasses {i}-{i + 4}" for i in (1, 6, 11, 16)]
    for i, (stage, parts) in enumerate(zip(stages, data.parts.values(), strict=True)):
        numbers = [(classes.start // 30).tolist() for classes in parts.values()]
        assert [len(n) for n in numbers] == [15, 5, 5]  # of each superclass three, one and one
        everything = [number for part in numbers for number in part]
        assert len(set(everything)) == 25
        assert all(5 * i <= number % 20 < 5 * i + 5 for number in everything)
        tasks = stage.test.sample(torch.arange(4))
        assert set((tasks.query.x[:, :, 0, 0, 0] * 255).round().long().flatten().tolist()) <= set(numbers[2])
    random = CIFARFS(0, root=small, stages=4, stage_by="random", ways=3, queries=5)
    assert sorted(n for parts in random.parts.values() for c in parts.values() for n in (c.start // 30).tolist()) == list(
        range(100)
    )
    with pytest.raises(ConfigError, match="stages=21: expected 1 to 20"):
        CIFARFS(0, root=small, stages=21)
    with pytest.raises(
        ConfigError, match=r"data\.ways=5: expected at most the 2 classes of the val split of stage superclasses 1-2"
    ):
        CIFARFS(0, root=small, stages=10)


def test_a_cache_of_other_content_is_not_taken(small, monkeypatch):
    CIFARFS(0, root=small)
    (cache,) = archives.cache_folder().iterdir()
    monkeypatch.setattr(cifar100, "DECODING", "v2")
    CIFARFS(0, root=small)
    assert len(list(archives.cache_folder().iterdir())) == 2
    assert cache.is_file()


def test_the_full_set(tmp_path, monkeypatch):
    if not any((root / "cifar100" / cifar100.ARCHIVE).is_file() for root in archives.roots(None)):
        pytest.skip(f"METARUN_DATA has no cifar100/{cifar100.ARCHIVE}")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    whole = cifar100.load(None)
    assert whole.images.shape == (60000, 3, 32, 32)
    assert whole.names[:2] == ["apple", "aquarium_fish"]
    assert {name for name, of in zip(whole.names, whole.superclass, strict=True) if of == 1} == FISH
    pixels = whole.images.view(100, 600, 3, -1)
    train, test = pixels[:, :500].double() / 255, pixels[:, 500:].double() / 255
    torch.testing.assert_close(train.mean((0, 1, 3)), torch.tensor([0.5070752, 0.4865489, 0.4409178]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(test.mean((0, 1, 3)), torch.tensor([0.5087964, 0.4873930, 0.4419422]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("algo", ["maml", "fomaml", "protonet"])
def test_every_algorithm_trains_a_residual_network(small, algo):
    data = CIFARFS(0, root=small, ways=3, queries=2)
    network = {"_target_": "metarun.model.resnet12.ResNet12", "widths": [4, 4, 4, 4]}
    config = OmegaConf.create({"seed": 0, "model": network, "algo": OmegaConf.load(CONFIGS / "algo" / "protonet.yaml")})
    if algo != "protonet":
        config.algo = {"_target_": "metarun.algo.maml.MAML", "inner_lr": 0.1, "first_order": algo == "fomaml"}
    learner = build(
        config.algo, data.spec, lambda outputs: build(config.model, data.spec.input_shape, outputs, key="model"), key="algo"
    )
    losses = learner.backward(data.stages(CPU)[0].train.sample(torch.arange(2)))
    assert losses.shape == (2,)
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in learner.parameters())
