"""Pickles of arrays: what they may hold, and hostile ones."""

import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from metarun.config import ConfigError
from metarun.data.pickles import load_arrays

RNG = np.random.default_rng(0)
ARRAYS = {
    "bytes": RNG.integers(0, 256, (4, 3, 2), dtype=np.uint8),
    "columns first": np.asfortranarray(RNG.integers(0, 256, (4, 3), dtype=np.uint8)),
    "other order of bytes": np.arange(5, dtype=">i4"),
    "double": RNG.normal(size=(2, 3)),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "no axis": np.array(3, np.int64),
}


def loaded(path, content, most=100_000):
    path.write_bytes(content)
    return load_arrays(path, most)


def refused(path, content, said=""):
    with pytest.raises(ConfigError) as caught:
        loaded(path, content)
    assert str(caught.value).startswith(f"{path}: not a readable pickle of arrays (")
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_it_was(tmp_path, name, protocol):
    array = ARRAYS[name]
    found = loaded(tmp_path / "a.pkl", pickle.dumps([array, {"again": array}, array[...]], protocol))
    assert found[0].dtype == array.dtype
    assert found[0].shape == array.shape
    assert np.array_equal(found[0], array)
    assert np.array_equal(found[1]["again"], array)
    assert np.array_equal(found[2], array[...])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_scalars_of_numpy_become_numbers(tmp_path, protocol):
    found = loaded(tmp_path / "a.pkl", pickle.dumps([np.int64(3), np.float32(0.5), np.uint8(7)], protocol))
    assert found == [3, 0.5, 7]
    assert [type(value) for value in found] == [int, float, int]


def array_of(kind_state, name=b"V8", content=b"A" * 8, shape=(1,)):
    """The pickle of an array whose type is built from ``name`` and from ``kind_state``, applied after the array is filled."""
    kind = b"cnumpy\ndtype\n(U" + bytes([len(name)]) + name + b"K\x00K\x01tR" + b"q\x05"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    fill = b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + kind + b"\x89U" + bytes([len(content)]) + content + b"tb"
    return b"\x80\x02" + array + fill + b"q\x06h\x05" + kind_state + b"b0h\x06."


def test_a_type_that_changes_under_its_array_does_not_reach_numpy(tmp_path):
    fields = pickle.dumps((3, "|", None, ("f0",), {"f0": (np.dtype("O"), 0)}, 8, 1, 63), 2)[2:-1]
    refused(tmp_path / "a.pkl", array_of(fields), "not numeric")
    refused(tmp_path / "a.pkl", array_of(fields, name=b"u1", content=b"A"))


@pytest.mark.parametrize("name", [b"O", b"V8", b"O8", b"S4", b"U4", b"M8[s]", b"c16", b"(2,3)u1", b"u1,O", b"|O", b"b1,u1"])
def test_only_arrays_of_numbers_are_made(tmp_path, name):
    refused(tmp_path / "a.pkl", array_of(b"N", name=name))


@pytest.mark.parametrize(
    "array", [np.array([None]), np.array(["a"]), np.array([1j]), np.zeros(2, [("a", "u1")]), np.array(["2020"], "M8[D]")]
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_s_other_arrays_are_refused(tmp_path, array, protocol):
    refused(tmp_path / "a.pkl", pickle.dumps(array, protocol))


@pytest.mark.parametrize("shape", [(40_000, 40_000), (-1,), (2.0,), (True,), [1], (2**62, 4), None])
def test_a_shape_that_the_bytes_do_not_fill_is_refused(tmp_path, shape):
    refused(tmp_path / "a.pkl", array_of(b"N", name=b"u1", content=b"abcdefgh", shape=shape))


BOMBS = {
    "a place in the memo": b"I1\nr\x00\x00\x00\x20.",
    "a length of text": b"X" + struct.pack("<I", 2**31) + b"a.",
    "a length of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
    "a length of a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"a.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
}


@pytest.mark.parametrize("what", BOMBS)
def test_no_more_is_reserved_than_the_file_has(tmp_path, what):
    tracemalloc.start()
    try:
        loaded(tmp_path / "a.pkl", BOMBS[what])
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - the first of them is a number and no error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


HOSTILE = {
    "a set": pickle.dumps({1, 2}, 4),
    "a frozen set": pickle.dumps(frozenset([1]), 4),
    "an object": pickle.dumps(struct.error("x"), 2),
    "a class of its own": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "arguments of the array's class": b"\x80\x02cnumpy\nndarray\n((K\x08tR.",
    "state of a list": b"\x80\x02]N" + b"b.",
    "a persistent name": b"Pname\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a key that holds keys": b"\x80\x02}" + b"(" * 1 + b")" * 0 + b")\x85K\x01u.",
    "an array as a key": b"\x80\x02}" + pickle.dumps(np.zeros(1), 2)[2:-1] + b"K\x01s.",
    "nothing": b"",
    "the end alone": b".",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_anything_else_is_refused(tmp_path, what):
    refused(tmp_path / "a.pkl", HOSTILE[what])


def test_a_deep_key_is_refused_before_it_is_hashed(tmp_path):
    refused(tmp_path / "a.pkl", b"\x80\x02})" + b"\x85" * 50_000 + b"K\x01s.")


FUZZ = """
import resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
from metarun.config import ConfigError
from metarun.data.pickles import load_arrays
path, draw, refused = Path(sys.argv[1]), np.random.default_rng(1), 0
seeds = [Path(name).read_bytes() for name in sys.argv[3:]]
for i in range(int(sys.argv[2])):
    content = bytearray(seeds[i % len(seeds)])
    for _ in range(draw.integers(1, 6)):
        at = draw.integers(len(content))
        kind = draw.integers(3)
        if kind == 0:
            content[at] = draw.integers(256)
        elif kind == 1:
            del content[at : at + draw.integers(1, 4)]
        else:
            other = seeds[draw.integers(len(seeds))]
            start = draw.integers(len(other))
            content[at:at] = other[start : start + draw.integers(1, 12)]
        content = content or bytearray(b".")
    path.write_bytes(content)
    try:
        load_arrays(path, 10_000)
    except ConfigError as error:
        refused += 1
        assert "\\n" not in str(error), error
print(refused)
"""


def fuzz(tmp_path, count):
    seeds = []
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = {"image_data": ARRAYS["bytes"], "class_dict": {"a": [0, 1], "b": np.arange(3)}, "n": np.float64(2)}
        seeds.append(tmp_path / f"{protocol}.pkl")
        seeds[-1].write_bytes(pickletools.optimize(pickle.dumps(content, protocol)))
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "x.pkl"), str(count), *map(str, seeds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > count / 2


def test_mutated_pickles_are_one_line_each(tmp_path):
    fuzz(tmp_path, 500)


@pytest.mark.slow
def test_ten_thousand_mutated_pickles_are_one_line_each(tmp_path):
    fuzz(tmp_path, 10_000)
