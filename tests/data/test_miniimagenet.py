"""miniImageNet in the layouts that people have it in, from small fakes; damaged input in one line."""

import csv
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.config import ConfigError
from metarun.data import archives, miniimagenet
from metarun.data.miniimagenet import MiniImageNet
from metarun.data.pickles import load_arrays

CPU = torch.device("cpu")
COUNTS = {"train": 6, "val": 5, "test": 5}
PER_CLASS = 4


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(miniimagenet, "CLASSES", COUNTS)
    monkeypatch.setattr(miniimagenet, "PER_CLASS", PER_CLASS)


def classes() -> dict[str, list[str]]:
    numbers = iter(np.random.default_rng(1).permutation(16))
    return {split: [f"n{next(numbers):08}" for _ in range(count)] for split, count in COUNTS.items()}


def pixels(name: str, i: int) -> np.ndarray:
    rng = np.random.default_rng(int(name[1:]) * 100 + i)
    smooth = np.kron(rng.integers(0, 256, (7, 7, 3)), np.ones((12, 12, 1)))
    return smooth.astype(np.uint8)


def as_jpegs(root: Path, layout: str) -> Path:
    base = root / "miniimagenet"
    for split, names in classes().items():
        rows = []
        for name in names:
            for i in range(PER_CLASS):
                folder = base / ("images" if layout == "csv" else f"{split}/{name}")
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(name, i)).save(folder / f"{name}{i:08}.jpg", quality=95)
                rows.append({"filename": f"{name}{i:08}.jpg", "label": name})
        if layout == "csv":
            with (base / f"{split}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["filename", "label"])
                writer.writeheader()
                writer.writerows(rows[::-1])
    return root


def as_pickles(root: Path, protocol: int = 4) -> Path:
    base = root / "miniimagenet"
    base.mkdir(parents=True)
    for split, names in classes().items():
        images = np.stack([pixels(name, i) for name in names for i in range(PER_CLASS)])
        rows = {name: list(range(PER_CLASS * k, PER_CLASS * (k + 1))) for k, name in enumerate(names)}
        content = {"image_data": images, "class_dict": rows}
        name = "validation" if split == "val" and protocol == 2 else split
        (base / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(content, protocol))
    return root


def load(root: Path, **keys) -> MiniImageNet:
    return MiniImageNet(0, root=str(root), **{"ways": 5, "queries": 3, **keys})


def test_layouts_give_the_same_tensors(tmp_path, monkeypatch):
    found = {}
    for layout in ("csv", "folders", "pickle", "pickle of Python 2"):
        root = tmp_path / layout
        monkeypatch.setenv("METARUN_CACHE", str(tmp_path / f"cache {layout}"))
        if layout in ("csv", "folders"):
            as_jpegs(root, layout)
        else:
            as_pickles(root, 4 if layout == "pickle" else 2)
        found[layout] = load(root)
    assert torch.equal(found["csv"].images, found["folders"].images)
    assert torch.equal(found["pickle"].images, found["pickle of Python 2"].images)
    difference = (found["pickle"].images.int() - found["csv"].images.int()).abs().float().mean()
    assert difference < 8  # what JPEG loses
    expected = [pixels(name, i) for names in classes().values() for name in sorted(names) for i in range(PER_CLASS)]
    assert np.array_equal(found["pickle"].images.numpy(), np.stack(expected).transpose(0, 3, 1, 2))


def test_tasks_and_stages(tmp_path):
    data = load(as_pickles(tmp_path), ways=2)
    assert [len(classes) for classes in data.splits.values()] == [6, 5, 5]
    tasks = data.stages(CPU)[0].test.sample(torch.arange(3))
    assert tasks.support.x.shape == (3, 2, 3, 84, 84)
    assert tasks.query.x.shape == (3, 6, 3, 84, 84)
    streams = load(tmp_path, ways=2, stages=1)
    assert list(streams.parts) == ["group 1"]
    assert [len(classes) for classes in streams.splits.values()] == [10, 3, 3]


def test_the_cache_is_mapped_and_made_again_when_damaged(tmp_path):
    root = as_pickles(tmp_path)
    first = load(root).images.clone()
    for path in (root / "miniimagenet").iterdir():
        path.unlink()
    assert torch.equal(load(root).images, first)  # no images are needed any more
    cache = archives.cache_folder() / f"miniimagenet-{miniimagenet.DECODING}.npy"
    os.truncate(cache, cache.stat().st_size // 2)
    with pytest.raises(ConfigError, match="miniImageNet not found"):
        load(root)
    (root / "miniimagenet").rmdir()
    as_pickles(root)
    assert torch.equal(load(root).images, first)
    assert sorted(path.suffix for path in archives.cache_folder().iterdir()) == [".json", ".npy"]


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    root, limits = as_pickles(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"METARUN_CACHE: cannot write .*miniimagenet.*\.npy \(File too large\)"):
            load(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(archives.cache_folder().iterdir())
    assert len(load(root).images) == 64


class Evil:
    def __reduce__(self):
        return os.system, ("echo ran > evidence",)


def test_a_pickle_that_asks_for_more_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = as_pickles(tmp_path)
    path = root / "miniimagenet" / "mini-imagenet-cache-train.pkl"
    path.write_bytes(pickle.dumps({"image_data": Evil()}))
    with pytest.raises(ConfigError, match=r"train\.pkl: not a readable pickle of arrays \(it asks for (posix|os)\.system"):
        load(root)
    assert not (tmp_path / "evidence").exists()
    path.write_bytes(pickle.dumps([len]))
    with pytest.raises(ConfigError, match=r"it asks for builtins\.len"):
        load_arrays(path, 10_000)


def rewrite(root: Path, change) -> None:
    path = root / "miniimagenet" / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())  # noqa: S301
    change(content)
    path.write_bytes(pickle.dumps(content))


def csv_file(root: Path) -> Path:
    return as_jpegs(root, "csv") / "miniimagenet" / "val.csv"


def a_jpeg(root: Path) -> Path:
    return min((as_jpegs(root, "folders") / "miniimagenet" / "val").rglob("*.jpg"))


DAMAGE = {
    "nothing": (lambda r: None, "ImageNet's terms do not allow metarun to download it; put its mini-imagenet-cache"),
    "html": (lambda r: (as_pickles(r) / "miniimagenet/mini-imagenet-cache-val.pkl").write_text("<html>"), "not a readable pickle"),
    "another dictionary": (
        lambda r: rewrite(as_pickles(r), lambda c: c.pop("class_dict")),
        "expected a dictionary with image_data",
    ),
    "another size": (
        lambda r: rewrite(as_pickles(r), lambda c: c.update(image_data=np.zeros((20, 64, 64, 3), "u1"))),
        r"found \(20, 64",
    ),
    "another type": (lambda r: rewrite(as_pickles(r), lambda c: c.update(image_data=c["image_data"] / 255)), "found .* float64"),
    "class missing": (lambda r: rewrite(as_pickles(r), lambda c: c["class_dict"].popitem()), "expected 5 classes, found 4"),
    "image missing": (
        lambda r: rewrite(as_pickles(r), lambda c: min(c["class_dict"].values()).pop()),
        "expected 4 images of class",
    ),
    "row missing": (
        lambda r: rewrite(as_pickles(r), lambda c: c.update(image_data=c["image_data"][:-1])),
        "expected rows 0 to 18, found 16 to 19",
    ),
    "list missing": (lambda r: csv_file(r).unlink(), r"val\.csv: expected a CSV file of images"),
    "other columns": (lambda r: csv_file(r).write_text("file,class\na.jpg,b\n"), "expected the columns filename and label"),
    "line missing": (lambda r: csv_file(r).write_text("filename,label\na.jpg,b\n"), "expected 5 classes, found 1"),
    "no image": (lambda r: a_jpeg(r).write_bytes(b"no jpeg"), r"\.jpg: not a readable image"),
    "truncated image": (lambda r: os.truncate(a_jpeg(r), 900), r"\.jpg: not a readable image"),
    "file missing": (lambda r: a_jpeg(r).unlink(), "expected 4 images of class .* found 3"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_input_is_named(tmp_path, damage):
    spoil, message = DAMAGE[damage]
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_larger_images_are_scaled(tmp_path):
    path = a_jpeg(tmp_path)
    with Image.open(path) as image:
        larger = image.resize((336, 336), Image.Resampling.NEAREST)
    larger.save(path, quality=98)
    assert load(tmp_path).images.shape == (64, 3, 84, 84)
