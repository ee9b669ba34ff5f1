"""A user's own images: found, split, scaled, and every mistake in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.config import ConfigError
from metarun.data import archives
from metarun.data.folder import Folder

CPU = torch.device("cpu")
FORMATS = ("png", "jpg", "bmp", "webp", "gif")


def picture(path: Path, shade: int, size: tuple[int, int] = (30, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    for c in range(10):
        for i in range(6 + c % 2):
            picture(tmp_path / "mine" / f"class{c}" / f"{i}.{FORMATS[i % 5]}", 20 * c)
    (tmp_path / "mine" / ".hidden").mkdir()
    (tmp_path / "mine" / "class0" / ".DS_Store").write_text("")
    (tmp_path / "mine" / "notes.txt").write_text("a file beside the classes does no harm")
    return tmp_path / "mine"


def make(root: Path, **keys) -> Folder:
    defaults = {"path": str(root), "size": 16, "ways": 2, "shots": 2, "queries": 3}
    return Folder(0, **{**defaults, **keys})


def test_classes_are_split_and_images_scaled(root):
    data = make(root)
    assert [len(classes) for classes in data.splits.values()] == [6, 2, 2]
    starts = torch.cat([classes.start for classes in data.splits.values()])
    assert len(set(starts.tolist())) == 10
    tasks = data.stages(CPU)[0].train.sample(torch.arange(20))
    assert tasks.query.x.shape == (20, 6, 3, 16, 16)
    shades = (tasks.query.x[:, :, 0].mean((-1, -2)) * 255 / 20).round().view(20, 2, 3)
    assert (shades == shades[:, :, :1]).all()
    assert (shades[:, 0, 0] != shades[:, 1, 0]).all()
    assert make(root, split_seed=1).splits["test"].start.tolist() != data.splits["test"].start.tolist()


def test_lists_say_the_split(root, tmp_path):
    for which, classes in {"train": "0 1 2", "val": "3 4", "test": "9 8"}.items():
        (tmp_path / f"{which}.txt").write_text("\n".join(f"class{c}" for c in classes.split()))
    data = make(root, lists=str(tmp_path))
    shades = [(data.images[c.start, 0, 0, 0].float() / 20).round().tolist() for c in data.splits.values()]
    assert shades == [[0, 1, 2], [3, 4], [9, 8]]
    (tmp_path / "val.txt").write_text("class3 clas4")
    with pytest.raises(ConfigError, match=r"val\.txt: the folder has no class clas4; did you mean class4\?"):
        make(root, lists=str(tmp_path))
    (tmp_path / "val.txt").write_text("class3 class2")
    with pytest.raises(ConfigError, match=r"val\.txt: class class2 is also in train\.txt"):
        make(root, lists=str(tmp_path))
    (tmp_path / "val.txt").unlink()
    with pytest.raises(ConfigError, match=r"val\.txt: expected a list of classes"):
        make(root, lists=str(tmp_path))


def test_grey_and_the_middle_square(root):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(root / "class0" / "0.png")
    data = make(root, channels=1, size=10)
    assert data.images.shape[1:] == (1, 10, 10)
    assert (data.images[0] > 190).all()


def test_a_changed_file_is_decoded_again(root):
    before = make(root).images[0].clone()
    assert len(list(archives.cache_folder().iterdir())) == 1
    picture(root / "class0" / "0.png", 250)
    os.utime(root / "class0" / "0.png", ns=(1, 1))
    assert not torch.equal(make(root).images[0], before)


def no_image(root: Path) -> None:
    (root / "class3" / "2.png").write_bytes(b"no image")


def text_file(root: Path) -> None:
    (root / "class3" / "readme.md").write_text("hello")


def few_images(root: Path) -> None:
    for i in range(3):
        (root / "class5" / f"{i}.{FORMATS[i]}").unlink()


def truncated(root: Path) -> None:
    path = root / "class4" / "1.jpg"
    path.write_bytes(path.read_bytes()[:200])


MISTAKES = {
    "no image": (no_image, {}, r"class3/2\.png: not a readable image"),
    "truncated": (truncated, {}, r"class4/1\.jpg: not a readable image"),
    "text file": (text_file, {}, r"class3/readme\.md: expected an image \(bmp, gif"),
    "few images": (few_images, {}, r"class5: expected at least 5 images \(shots \+ queries\), found 4"),
    "no folder": (None, {"path": "nowhere"}, "data.path=nowhere: expected a folder"),
    "no classes": (None, {"path": "."}, "found no folders"),
    "ways": (None, {"ways": 3}, "data.ways=3: expected at most the 2 classes of the val split"),
    "shares": (None, {"split": (0.5, 0.1, 0.1)}, "split=.*sum to 1"),
    "channels": (None, {"channels": 2}, "channels=2"),
    "empty split": (None, {"split": (0.5, 0.0, 0.5)}, "data.ways=2: expected at most the 0 classes of the val split"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(root, tmp_path, monkeypatch, mistake):
    spoil, keys, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if spoil:
        spoil(root)
    with pytest.raises(ConfigError, match=message) as caught:
        make(root, **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_whole_runs(root, here):
    short = ("trainer.iterations=2", "trainer.test_tasks=4", "trainer.figures=false", "model.filters=4")
    keys = ("data=folder", f"data.path={root}", "data.size=16", "data.ways=2", "data.queries=3", *short)
    here("algo=protonet", *keys)
    here("algo=maml", *keys)
    assert here("data=folder", *short, status=2).stderr == "metarun: data.path: missing; give it as data.path=VALUE\n"
