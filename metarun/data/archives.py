"""Finds archives under the data roots or downloads them, and caches decoded arrays.

`METARUN_DATA` or `data.root` names the roots (several are joined by `os.pathsep`), which have a folder for each data set and may
be read-only. Decoded arrays go to `METARUN_CACHE`. Both default to the user's data and cache folders.
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
"""Largest number of files in a zip archive."""


def roots(root: str | None) -> list[Path]:
    """The data roots: from the configuration, else from the environment, else the user's data folder."""
    named = root or os.environ.get("METARUN_DATA") or str(platformdirs.user_data_path("metarun"))
    return [Path(part).expanduser() for part in named.split(os.pathsep) if part]


def find(root: str | None, folder: str, name: str, url: str | None = None, md5: str | None = None) -> Path:
    """The file ``name`` of the data set ``folder``: an existing one under a root, else downloaded from ``url`` to the first root.

    A download is written under a temporary name, checked against ``md5`` and then renamed.

    Raises:
        ConfigError: the file does not exist and cannot be downloaded; the message names the file and where to put it.
    """
    places = [base / folder / name for base in roots(root)]
    for place in places:
        if place.is_file():
            return place
    missing = f"{folder}/{name} not found under the data roots ({', '.join(map(str, roots(root)))})"
    if url is None:
        raise ConfigError(f"data.root: {missing}")
    log.info("Downloading %s to %s", url, places[0])
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        pooch.retrieve(url, known_hash=md5 and f"md5:{md5}", fname=name, path=places[0].parent, progressbar=False)
    except (OSError, ValueError) as error:  # no network, no write permission, or not the published file
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"data.root: {missing}, and downloading failed ({type(error).__name__}: {reason});"
            f" download {url} to {places[0].parent}, or point METARUN_DATA or data.root at a folder that has {folder}/{name}"
        ) from None
    return places[0]


# Archives are read in memory and never unpacked; those that would be harmful to unpack are refused nevertheless.


def check_zip(path: Path, archive: zipfile.ZipFile, most: int) -> None:
    """Check a zip before it is read; zipfile itself reads no more of a member than its declared size.

    Raises:
        ConfigError: a name points outside the archive, a member is a link or a device, there are too many members, or they
            have more than ``most`` bytes in total.
    """
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ConfigError(f"{path}: expected at most {MEMBERS:,} files in the archive, found {len(members):,}; delete it")
    total = 0
    for member in members:
        total += member.file_size
        _check_member(path, member.filename, stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR))
        _check_size(path, total, most)


def read_tar(path: Path, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Members of a tar.gz by base name, for the expected sizes in ``wanted``; a larger member is cut one byte beyond its size.

    Raises:
        ConfigError: the file is not a tar.gz, or fails the checks of `check_zip`, with the sum of ``wanted`` plus a megabyte as
            the largest total size.
    """
    most = sum(wanted.values()) + 2**20
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(path) as unzipped, tarfile.open(fileobj=_Bounded(path, unzipped, most), mode="r|") as archive:
            for member in archive:
                _check_member(path, member.name, (member.isreg() and not member.issparse()) or member.isdir())
                _check_size(path, member.size, most)
                name = member.name.rpartition("/")[2]
                if member.isreg() and name in wanted and name not in contents and (opened := archive.extractfile(member)):
                    contents[name] = opened.read(wanted[name] + 1)
    except (tarfile.TarError, zlib.error, EOFError, OSError, OverflowError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not a readable tar.gz archive ({error}); delete it to download it again") from None
    return contents


class _Bounded(io.RawIOBase):
    """A file that refuses to yield more than ``most`` bytes, whatever sizes its headers declare."""

    def __init__(self, path: Path, file: gzip.GzipFile, most: int) -> None:
        self.path, self.file, self.most = path, file, most

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(min(size, self.most + 1) if size >= 0 else self.most + 1)
        _check_size(self.path, self.file.tell(), self.most)
        return content


def _check_member(path: Path, name: str, plain: bool) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise ConfigError(f"{path}: the name {name!r} points outside the archive; delete it to download it again")
    if not plain:
        raise ConfigError(f"{path}: the member {name!r} is a link or a device; delete it to download it again")


def _check_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise ConfigError(f"{path}: expected at most {most:,} bytes when unpacked, found more; delete it")


def cache_folder() -> Path:
    """The folder for decoded arrays."""
    named = os.environ.get("METARUN_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("metarun")


def cached(name: str, keys: set[str], make: Callable[[], dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """The arrays ``keys`` from ``make``, which is called once; later calls read the cache file ``name``.npz.

    ``name`` must identify everything that the arrays depend on, including the version of the decoding. A file whose checksum is
    wrong, or that has other arrays, is replaced. It is written under a temporary name and renamed, so any number of processes
    may do this at once.
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
        log.warning(
            "Could not write the cache file %s (%s); the data will be decoded again next time", path, error.strerror or error
        )
    return arrays


def mapped(
    name: str, shape: tuple[int, ...], make: Callable[[], Iterator[tuple[str, NDArray[np.uint8]]]]
) -> tuple[NDArray[np.uint8], list[str]]:
    """An array too large for memory, memory-mapped from the cache file ``name``.npy, with the names of its parts.

    ``make`` yields the parts in order along the first axis. The names are written last; an array without them, or of a shape
    other than ``shape``, is made again. Changes to the array are not written to the file.
    """
    folder = cache_folder()
    path, names = folder / f"{name}.npy", folder / f"{name}.json"
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        if array.shape == shape and array.dtype == np.uint8:
            return array, json.loads(names.read_text())
    except (OSError, ValueError, EOFError):
        pass
    log.info("Decoding %s to %s (only once)", name, path)
    parts = []
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    try:
        with replacing(path) as file:  # written rather than mapped, so that a full disk raises an error instead of a signal
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
    log.warning("%s is damaged; decoding again", path)
    return None


def _checksum(arrays: dict[str, NDArray[np.generic]]) -> NDArray[np.uint8]:
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[key]).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)
