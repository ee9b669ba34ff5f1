"""Omniglot: the official content in any container, damaged input in one line, splits and rotations, tasks by number."""

import io
import multiprocessing
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.config import ConfigError
from metarun.data import archives, omniglot
from metarun.data.omniglot import Omniglot, read_archive, vinyals_split

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def drawing(ink: tuple[int, int] = (50, 50), size: tuple[int, int] = (105, 105)) -> bytes:
    image = Image.new("1", size, 1)
    for dx in range(10):
        for dy in range(10):
            image.putpixel((ink[0] + dx, ink[1] + dy), 0)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def small_archive(path: Path, characters: int = 3, images: int = 20, **changed: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images_background/", "")
        for c in range(characters):
            for i in range(images):
                name = f"images_background/Greek/character{c + 1:02}/{c + 1:04}_{i + 1:02}.png"
                archive.writestr(name, changed.get(f"c{c}_{i}", drawing((5 * c, i))))
    return path


def test_ink_is_bright_and_lies_where_it_was_drawn(tmp_path):
    read = read_archive(small_archive(tmp_path / "a.zip"), "images_background", 3, "nearest")
    assert list(read) == [f"Greek/character0{c}" for c in (1, 2, 3)]
    image = read["Greek/character03"][19]
    assert image.shape == (28, 28)
    assert set(np.unique(image)) == {0, 255}
    rows, columns = np.nonzero(image)
    assert abs(columns.mean() / 28 - 15 / 105) < 0.04
    assert abs(rows.mean() / 28 - 24 / 105) < 0.04
    grey = read_archive(tmp_path / "a.zip", "images_background", 3, "antialias")["Greek/character03"][19]
    assert len(np.unique(grey)) > 2


def html(path: Path) -> None:
    path.write_text("<html>quota exceeded</html>")


def truncated(path: Path) -> None:
    whole = small_archive(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def damaged_inside(path: Path) -> None:
    content = bytearray(small_archive(path).read_bytes())
    content[200:260] = b"\0" * 60
    path.write_bytes(bytes(content))


DAMAGE = {
    "html": (html, "not a readable zip archive"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable zip archive"),
    "truncated": (truncated, "not a readable zip archive"),
    "damaged": (damaged_inside, "not a readable (zip archive|PNG)"),
    "character missing": (lambda path: small_archive(path, characters=2), "expected 3 characters .* found 2"),
    "image missing": (lambda path: small_archive(path, images=19), "character01 has 19 images"),
    "wrong size": (
        lambda path: small_archive(path, c1_4=drawing(size=(28, 28), ink=(1, 1))),
        "expected 105×105 pixels, found 28×28",
    ),
    "no image": (lambda path: small_archive(path, c2_0=b"no png"), "0003_01.png: not a readable PNG"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_archives_are_named(tmp_path, damage):
    spoil, message = DAMAGE[damage]
    path = tmp_path / "images_background.zip"
    spoil(path)
    with pytest.raises(ConfigError, match=message) as caught:
        read_archive(path, "images_background", 3, "nearest")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_data_without_a_network_says_what_to_put_where(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("METARUN_DATA", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    with pytest.raises(ConfigError) as caught:
        Omniglot(0)
    line = str(caught.value)
    assert "\n" not in line
    assert "download http://127.0.0.1:9/images_background.zip to" in line
    assert str(tmp_path / "a" / "omniglot") in line
    assert not list((tmp_path / "a").rglob("*.zip"))


def test_a_damaged_cache_is_made_again_and_a_good_one_is_kept(cache):
    calls = []

    def make():
        calls.append(1)
        return {"images": np.arange(12, dtype=np.uint8).reshape(3, 4)}

    for _ in range(2):
        assert np.array_equal(archives.cached("set", {"images"}, make)["images"], make()["images"])
    assert len(calls) == 3  # one by the cache, two by this test
    path = cache / "set.npz"
    content = bytearray(path.read_bytes())
    content[-200] ^= 255
    for spoiled in (bytes(content[:100]), bytes(content), b""):
        path.write_bytes(spoiled)
        calls.clear()
        assert np.array_equal(archives.cached("set", {"images"}, make)["images"], np.arange(12).reshape(3, 4))
        assert len(calls) == 1
    assert [p.name for p in cache.iterdir()] == ["set.npz"]
    assert archives.cached("set", {"images", "names"}, lambda: {**make(), "names": np.array(["a"])})["names"][0] == "a"


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "file" / "cache"))
    assert archives.cached("set", {"x"}, lambda: {"x": np.ones(2)})["x"].sum() == 2


def _fill(_: int) -> int:
    return int(archives.cached("set", {"x"}, lambda: {"x": np.arange(100000)})["x"].sum())


def test_two_processes_may_fill_the_cache_at_once(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_fill, range(6)))) == 1
    assert [p.name for p in cache.iterdir()] == ["set.npz"]


# With the real data --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARUN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield lambda **keys: Omniglot(0, root=str(data_root), **keys)


def test_the_whole_set_is_there(real):
    data = real()
    assert data.images.shape == (32460, 1, 28, 28)
    share = (data.images > 0).double().mean().item()
    assert 0.05 < share < 0.12  # ink is bright, and little of a page


def test_splits_share_no_character(real):
    for split, sizes in {"vinyals": (1028, 172, 423), "maml": (1100, 100, 423)}.items():
        parts = [set(classes.start.tolist()) for classes in real(split=split, rotations="none").splits.values()]
        assert tuple(map(len, parts)) == sizes
        assert len(set.union(*parts)) == 1623
    other = [real(split="maml", split_seed=seed).splits["test"].start for seed in (1, 2)]
    assert not torch.equal(*other)


def test_the_shipped_lists_are_the_published_split(data_root):
    lists = data_root / "omniglot" / "splits" / "vinyals"
    names = sorted({line.rpartition("/")[0] for file in lists.glob("*.txt") for line in file.read_text().split()})
    ours = vinyals_split(names)
    for split in ("train", "val", "test"):
        published = Counter(line.rpartition("/")[0] for line in (lists / f"{split}.txt").read_text().split())
        assert {names[i] for i in ours[split]} == set(published)
        assert set(published.values()) == {4}


@pytest.mark.parametrize(
    ("rotations", "train", "test"),
    [("classes", 4112, 1692), ("train_classes", 4112, 423), ("task", 1028, 423), ("none", 1028, 423)],
)
def test_rotations(real, rotations, train, test):
    stage = real(rotations=rotations).stages(CPU)[0]
    assert (len(stage.train.start), len(stage.test.start)) == (train, test)
    upright = real(rotations="none").images[:, 0]
    tasks = stage.train.sample(torch.arange(20))
    # Every image of a class of a task is one of that character's 20 drawings, all turned alike.
    turns = set()
    flat = {upright[i].numpy().tobytes(): i // 20 for i in range(len(upright))}
    for t in range(20):
        for way in range(5):
            image = (tasks.support.x[t, way, 0] * 255).round().byte()
            found = {k for k in range(4) if torch.rot90(image, -k, (0, 1)).numpy().tobytes() in flat}
            assert found
            turns |= found
    assert turns == ({0} if rotations == "none" else {0, 1, 2, 3})


def test_a_test_task_may_stay_within_an_alphabet(real):
    data = real(test_split="within_alphabet", ways=5)
    source = data.stages(CPU)[0].test
    alphabet = np.repeat(np.arange(len(data.test_groups)), data.test_groups)
    chosen = alphabet[source.sample(torch.arange(300)).context["classes"].numpy()]
    assert (chosen == chosen[:, :1]).all()
    assert set(chosen[:, 0]) == set(range(len(data.test_groups)))
    assert len(data.splits["train"]) == 4112
    assert len(data.splits["test"]) == sum(data.test_groups) <= 423
    with pytest.raises(ConfigError, match="ways=60: expected at most the number of test characters of an alphabet"):
        real(test_split="within_alphabet", ways=60)


def test_stages_are_groups_of_alphabets(real):
    data = real(stages=5, rotations="none")
    assert list(data.parts) == [f"alphabets {i}-{i + 9}" for i in (1, 11, 21, 31, 41)]
    everything = [n for parts in data.parts.values() for classes in parts.values() for n in (classes.start // 20).tolist()]
    assert sorted(everything) == list(range(1623))
    assert all(len(parts["train"]) > 2 * len(parts["test"]) for parts in data.parts.values())


def test_tasks_have_different_classes_and_no_image_twice(real):
    source = real(ways=20, shots=5, queries=15).stages(CPU)[0].test
    tasks = source.sample(torch.arange(6))
    assert tasks.support.x.shape == (6, 100, 1, 28, 28)
    assert tasks.query.x.shape == (6, 300, 1, 28, 28)
    assert tasks.support.y.tolist()[0] == [i // 5 for i in range(100)]
    assert tasks.query.y.tolist()[0] == [i // 15 for i in range(300)]
    assert all(len(set(row)) == 20 for row in tasks.context["classes"].tolist())
    assert 0 <= tasks.query.x.min() < tasks.query.x.max() == 1
    for t in range(6):
        both = torch.cat([tasks.support.x[t], tasks.query.x[t]])
        assert len({image.numpy().tobytes() for image in both}) == 400


def test_task_i_is_the_same_alone_and_in_a_batch(real):
    source = real().stages(CPU)[0].train
    batch = source.sample(torch.tensor([3, 10**9, 4]))
    alone = source.sample(torch.tensor([10**9]))
    assert torch.equal(alone.query.x[0], batch.query.x[1])
    assert torch.equal(alone.support.x[0], batch.support.x[1])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ways": 2000}, "data.ways=2000: expected at most the 688 classes of the val split"),
        ({"train_ways": 5000}, "data.train_ways=5000: expected at most the 4112 classes of the train split"),
        ({"shots": 10}, r"data.shots \+ data.queries=25: expected at most the 20 examples"),
        ({"ways": 1}, "ways=1: expected 2 or more"),
    ],
)
def test_tasks_that_cannot_be_filled_are_refused(real, keys, message):
    with pytest.raises(ConfigError, match=message):
        real(**keys)


@pytest.mark.slow
def test_whole_runs_on_real_data(real, here, data_root):
    short = ("trainer.iterations=2", "trainer.test_tasks=4", "trainer.val_tasks=4", "trainer.figures=false", "model.filters=8")
    for algo in ("maml", "fomaml", "protonet"):
        out = here(f"algo={algo}", "data=omniglot", f"data.root={data_root}", *short).stdout
        assert "4 test tasks, 5-way 1-shot, 15 queries per class, batch norm" in out
    line = here("algo=maml", "data=omniglot", f"data.root={data_root}", "data.train_ways=20", *short, status=2).stderr
    assert "data.train_ways=20: expected data.ways (5): the head has one size" in line
