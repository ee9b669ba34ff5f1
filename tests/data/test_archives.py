"""Archives that would do harm, each made here and refused in one line that names the file."""

import gzip
import io
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from metarun.config import ConfigError
from metarun.data import archives, cifar100, folder, miniimagenet, mnist, omniglot
from metarun.data.archives import read_tar
from metarun.data.pickles import load_arrays

LINK, DEVICE = 0o120777 << 16, 0o020666 << 16

ZIPS = {  # names, attributes and sizes of members
    "leads out, upwards": ("../../etc/cron.d/x", 0, 3),
    "leads out, within": ("images/../../x", 0, 3),
    "leads out, as Windows has it": (r"..\..\x", 0, 3),
    "absolute": ("/etc/cron.d/x", 0, 3),
    "absolute, a drive": ("C:/x", 0, 3),
    "a link": ("images/x", LINK, 3),
    "a device": ("images/x", DEVICE, 3),
    "a bomb": ("images/x", 0, omniglot.MOST + 1),
}


@pytest.mark.parametrize("what", ZIPS)
def test_a_harmful_zip_is_refused(tmp_path, what):
    name, attributes, size = ZIPS[what]
    path = tmp_path / "images.zip"
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr, info.create_system, info.compress_type = name, attributes, 3, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, bytes(size))
    refused(path, lambda: omniglot.read_archive(path, "images", 1, "nearest"))


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    """A drawing that is said to be small: no more of it than that is unpacked."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"images/A/character01/0001_{i + 1:02}.png", bytes(2**22))
    content = path.read_bytes()
    path.write_bytes(content.replace((2**22).to_bytes(4, "little"), (200).to_bytes(4, "little")))
    refused(path, lambda: omniglot.read_archive(path, "images", 1, "nearest"))


def test_a_zip_of_very_many_files_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20):
            archive.writestr(f"x{i}", b"")
    monkeypatch.setattr(archives, "MEMBERS", 19)
    refused(path, lambda: omniglot.read_archive(path, "images", 1, "nearest"))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side=105, *chunks):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", zlib.compress(bytes(106 * 105)))


BAD_IMAGES = {
    "60,000 pixels wide": png(60_000),
    "a compressed comment that unpacks to much": png(105, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))),
    "a header that is cut": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(4)),
    "a density that is cut": png(105, chunk(b"pHYs", bytes(3))),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_an_image_that_cannot_be_read_is_one_line(tmp_path, what):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20):
            archive.writestr(f"images/A/character01/0001_{i + 1:02}.png", BAD_IMAGES[what])
    refused(path, lambda: omniglot.read_archive(path, "images", 1, "nearest"))
    file = tmp_path / "a.jpg"
    file.write_bytes(BAD_IMAGES[what] if what != "a density that is cut" else b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(4)))
    refused(file, lambda: miniimagenet.from_files({"a": [file]}, file, "train").__next__())


def test_a_zip_in_a_zip_is_no_drawing(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x", b"x")
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20):
            archive.writestr(f"images/A/character01/0001_{i + 1:02}.png", inner.getvalue())
    refused(path, lambda: omniglot.read_archive(path, "images", 1, "nearest"))


TARS = {  # names, types and sizes of members
    "leads out, upwards": ("../../etc/cron.d/train.bin", tarfile.REGTYPE, 3),
    "leads out, within": ("a/../../train.bin", tarfile.REGTYPE, 3),
    "absolute": ("/etc/cron.d/train.bin", tarfile.REGTYPE, 3),
    "absolute, beside the data": ("/etc/cron.d/x", tarfile.REGTYPE, 3),
    "a symbolic link": ("a/train.bin", tarfile.SYMTYPE, 0),
    "a hard link": ("a/train.bin", tarfile.LNKTYPE, 0),
    "a device": ("a/train.bin", tarfile.CHRTYPE, 0),
    "a pipe": ("a/train.bin", tarfile.FIFOTYPE, 0),
    "a bomb": ("a/train.bin", tarfile.REGTYPE, 2**22),
    "a bomb, beside the data": ("a/x", tarfile.REGTYPE, 2**22),
}


@pytest.mark.parametrize("what", TARS)
def test_a_harmful_tar_is_refused(tmp_path, what):
    name, kind, size = TARS[what]
    path = tmp_path / "data.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "/etc/passwd", size
        archive.addfile(info, io.BytesIO(bytes(size)))
    refused(path, lambda: read_tar(path, {"train.bin": 10}))
    refused(path, lambda: cifar100.decode(path, {"train.bin": 0}))


def test_a_header_that_says_it_is_larger_than_memory_is_not_believed(tmp_path):
    """The extended header of a tar is read whole, as long as it says that it is."""
    path = tmp_path / "data.tar.gz"
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**37
    with gzip.open(path, "wb", 1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        refused(path, lambda: read_tar(path, {"train.bin": 10}))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_an_extended_header_without_end_is_one_line(tmp_path):
    path = tmp_path / "data.tar.gz"
    header = f"{2**70} size={2**70}\n".encode()
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(header)
    with gzip.open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + header.ljust(512, b"\0"))
    refused(path, lambda: read_tar(path, {"train.bin": 10}))


def test_many_small_files_are_a_bomb_too(tmp_path):
    path = tmp_path / "data.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in range(5):
            info = tarfile.TarInfo(f"{i}")
            info.size = 2**18
            archive.addfile(info, io.BytesIO(bytes(2**18)))
    refused(path, lambda: read_tar(path, {"train.bin": 10}))


def test_an_idx_file_is_read_no_further_than_it_should_be_long(tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        refused(path, lambda: mnist.read_idx(path, 10))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


class Calls:
    def __init__(self, what, *arguments):
        self.what, self.arguments = what, arguments

    def __reduce__(self):
        return self.what, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("what", [print, eval, getattr, np.load, np.fromfile, bytearray])
def test_a_pickle_gives_arrays_and_containers_alone(tmp_path, protocol, what):
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    path.write_bytes(pickle.dumps({"image_data": [Calls(what, "1")]}, protocol))
    refused(path, lambda: load_arrays(path, 10_000))


def test_a_pickle_of_arrays_is_read_and_a_larger_one_is_not(tmp_path):
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    content = {"image_data": np.arange(12, dtype=np.uint8).reshape(3, 4), "class_dict": {"a": [0, 1], "b": (2, None)}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(content, protocol))
        found = load_arrays(path, 10_000)
        assert np.array_equal(found["image_data"], content["image_data"])
        assert found["class_dict"] == content["class_dict"]
    refused(path, lambda: load_arrays(path, 50))


def test_an_image_is_no_program(tmp_path):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    path = tmp_path / "0.png"
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "EPS")
    path.write_bytes(picture.getvalue())
    with Image.open(path) as image:
        assert image.format == "EPS"
    refused(path, lambda: folder.decode({"a": [path]}, 8, 1))


def refused(path, read):
    with pytest.raises(ConfigError) as caught:
        read()
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
