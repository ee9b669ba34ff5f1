"""Where data lies: archives found under data roots or downloaded, and decoded arrays in a cache.

`METARUN_DATA` or `data.root` names the roots (several may be joined by `os.pathsep`), each with a folder a data set; they may be
read-only. Decoded arrays go to `METARUN_CACHE`. Both default to the user's own folders.
"""

import gzip
import hashlib
import io
import json
import logging
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pooch
from numpy.typing import NDArray

from metarun.config import ConfigError
from metarun.files import replacing

log = logging.getLogger(__name__)

MEMBERS = 100_000
"""Files in a zip archive at most."""


def roots(root: str | None) -> list[Path]:
    """The data roots, those of the configuration before the environment's before the user's data folder."""
    named = root or os.environ.get("METARUN_DATA") or str(platformdirs.user_data_path("metarun"))
    return [Path(part).expanduser() for part in named.split(os.pathsep) if part]


def find(root: str | None, folder: str, name: str, url: str | None = None, md5: str | None = None) -> Path:
    """The file ``name`` of the data set ``folder``: found under a root, else downloaded from ``url`` into the first one.

    A download goes to a temporary name, is checked against ``md5`` and then renamed.

    Raises:
        ConfigError: it is not there and cannot be fetched; the line says what to put where.
    """
    places = [base / folder / name for base in roots(root)]
    for place in places:
        if place.is_file():
            return place
    here = f"{folder}/{name} is under none of the data roots ({', '.join(map(str, roots(root)))})"
    if url is None:
        raise ConfigError(f"data.root: {here}")
    log.info("Downloading %s to %s", url, places[0])
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        pooch.retrieve(url, known_hash=md5 and f"md5:{md5}", fname=name, path=places[0].parent, progressbar=False)
    except (OSError, ValueError) as error:  # no network, no place to write, or another file than the published one
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"data.root: {here} and downloading failed ({type(error).__name__}: {reason});"
            f" get {url} and put it in {places[0].parent}, or point METARUN_DATA or data.root at a folder that has {folder}/{name}"
        ) from None
    return places[0]


# Archives are read in memory and never unpacked. One that would do harm where it is unpacked is refused all the same.


def check_zip(path: Path, archive: zipfile.ZipFile, most: int) -> None:
    """Refuse a zip with names that lead out of it, with links or devices, with too many files, or more than ``most`` bytes in them.

    zipfile reads no more of a file than the size declared.

    Raises:
        ConfigError: it is one of these.
    """
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ConfigError(f"{path}: {len(members):,} files in it, more than the {MEMBERS:,} that a data set may have; remove it")
    total = 0
    for member in members:
        total += member.file_size
        _check_member(path, member.filename, stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR))
        _check_size(path, total, most)


def read_tar(path: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Files of a tar.gz by the last part of their names, each cut behind the size that ``wanted`` gives, and so found out.

    Raises:
        ConfigError: it is no tar.gz, or one that `check_zip` would refuse; "more" is here what ``wanted`` sums up to, and a
            megabyte for the rest.
    """
    most = sum(wanted.values()) + 2**20
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as unzipped, tarfile.open(fileobj=_Bounded(path, unzipped, most), mode="r|") as archive:
            for member in archive:
                _check_member(path, member.name, (member.isreg() and not member.issparse()) or member.isdir())
                _check_size(path, member.size, most)
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in wanted and name not in found and (opened := archive.extractfile(member)):
                    found[name] = opened.read(wanted[name] + 1)
    except (tarfile.TarError, zlib.error, EOFError, OSError, OverflowError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not a readable tar.gz archive ({error}); remove it, and it will be downloaded") from None
    return found


class _Bounded(io.RawIOBase):
    """What a file gives, up to a size: a header that says it is longer than memory is not believed."""

    def __init__(self, path: Path, file: gzip.GzipFile, most: int) -> None:
        self.path, self.file, self.most = path, file, most

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(min(size, self.most + 1) if size >= 0 else self.most + 1)
        _check_size(self.path, self.file.tell(), self.most)
        return content


def _check_member(path: Path, name: str, plain: bool) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise ConfigError(f"{path}: {name!r} in it leads out of the archive; remove it, and it will be downloaded")
    if not plain:
        raise ConfigError(f"{path}: {name!r} in it is a link or a device; remove it, and it will be downloaded")


def _check_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise ConfigError(f"{path}: unpacked it is larger than the {most:,} bytes that the data set needs; remove it")


def cache_folder() -> Path:
    """Where decoded arrays are kept."""
    named = os.environ.get("METARUN_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("metarun")


def cached(name: str, keys: set[str], make: Callable[[], dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """The arrays ``keys`` that ``make`` returns, made once and then read from the cache file ``name``.npz.

    ``name`` must say everything that the arrays depend on, the version of the decoding too. A file that does not carry its own
    checksum, or that has other arrays, is made anew. It is written beside and renamed, so any number of processes may do this
    at once.
    """
    path = cache_folder() / f"{name}.npz"
    arrays = _read(path)
    if arrays is not None and set(arrays) == keys:
        return arrays
    arrays = make()
    content: dict[str, Any] = {"checksum": _checksum(arrays), **arrays}
    try:
        with replacing(path) as file:
            np.savez(file, **content)
    except OSError as error:
        log.warning("Could not keep %s (%s): it will be decoded again", path, error.strerror or error)
    return arrays


def mapped(
    name: str, shape: tuple[int, ...], make: Callable[[], Iterator[tuple[str, NDArray[np.uint8]]]]
) -> tuple[NDArray[np.uint8], list[str]]:
    """An array too large for the memory, mapped from the cache file ``name``.npy, with the names of its parts.

    ``make`` gives the parts one after another along the first axis. The names are written last, so an array without them, or
    of another size than ``shape`` says, is made anew. Changes to the array do not reach the file.
    """
    folder = cache_folder()
    path, names = folder / f"{name}.npy", folder / f"{name}.json"
    try:
        found = np.load(path, mmap_mode="c", allow_pickle=False)
        if found.shape == shape and found.dtype == np.uint8:
            return found, json.loads(names.read_text())
    except (OSError, ValueError, EOFError):
        pass
    log.info("Decoding %s to %s, once", name, path)
    parts = []
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    try:
        with replacing(path) as file:  # written, not mapped: a full disk is an error then, and no signal
            np.lib.format.write_array_header_1_0(file, header)
            for part, values in make():
                file.write(np.ascontiguousarray(values).data)
                parts.append(part)
        with replacing(names) as file:
            file.write(json.dumps(parts).encode())
    except OSError as error:
        raise ConfigError(f"METARUN_CACHE: cannot write {path} ({error.strerror or error})") from None
    return np.load(path, mmap_mode="c", allow_pickle=False), parts


def _read(path: Path) -> dict[str, NDArray[np.generic]] | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        if bytes(arrays.pop("checksum")) == bytes(_checksum(arrays)):
            return arrays
    except Exception as error:  # whatever a damaged file makes numpy or zipfile raise
        log.debug("%s: %r", path, error)
    log.warning("%s is damaged: decoding again", path)
    return None


def _checksum(arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[key]).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)
