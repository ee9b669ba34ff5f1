"""Reads pickles of NumPy arrays, building nothing but numbers, text, lists, dictionaries and numeric arrays.

A pickled array passes its type and state to NumPy, where a hostile file can create an array of pointers. This reader takes only
the shape, the name of the type and the bytes from the file, and checks them before it creates an array. It extends Python's
unpickler written in Python; the one in C allocates memory for any memo index that a file names.
"""

import codecs
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarun.config import ConfigError, first_line

KINDS = "biuf"
"""NumPy kinds of numeric types: booleans, signed and unsigned integers, floating-point numbers."""


def load_arrays(path: Path, most: int) -> Any:
    """The content of a pickle of NumPy arrays and builtin containers, of at most ``most`` bytes; arrays are read-only.

    Raises:
        ConfigError: the pickle is damaged or too large, or asks for any other object, which the message names.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise ValueError(f"expected at most {most:,} bytes, found {size:,}")
        with path.open("rb") as file:
            return _Reader(_Bounded(file, size)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ConfigError(f"{path}: not a readable pickle of arrays ({first_line(error)})") from None


class _Bounded:
    """A file that refuses reads beyond its end, since a read allocates the requested memory first."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def read(self, count: int) -> bytes:
        if count < 0 or count > self.left:
            raise pickle.UnpicklingError("it is truncated")
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line

    def readinto(self, buffer: bytearray) -> int:
        content = self.read(len(buffer))
        buffer[:] = content
        return len(content)


class _Type:
    """The type of an array, from its name, such as `u1`, and its byte order, if the file has one."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = _plain(name)

    def build(self, state: Any) -> None:
        """``state``: version, byte order, and entries used only by types with fields."""
        order, *rest = state[1:]
        if order not in "<>|=" or any(part is not None for part in rest[:3]):
            raise pickle.UnpicklingError("it asks for an array that is not numeric")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array under construction: `numpy.ndarray` in the file, filled by `build`."""

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        """``state``: version, shape, type, whether in Fortran order, bytes."""
        *_, shape, kind, fortran_order, content = state
        self.array = _to_array(content, kind, shape, "F" if fortran_order else "C")


def _plain(name: Any) -> np.dtype[Any]:
    dtype = np.dtype(name) if isinstance(name, str) and len(name) <= 8 else None
    if dtype is None or dtype.kind not in KINDS or dtype.fields or dtype.subdtype:
        raise pickle.UnpicklingError("it asks for an array that is not numeric")
    return dtype


def _to_array(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if isinstance(content, str):  # Python 2 wrote bytes as text
        content = content.encode("latin1")
    fits = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not (fits and isinstance(kind, _Type) and isinstance(content, bytes | bytearray) and order in ("C", "F")):
        raise pickle.UnpicklingError("it has an array in a form that NumPy does not write")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"it has {len(content):,} bytes for an array of shape {shape} and type {kind.dtype}")
    return np.frombuffer(bytes(content), kind.dtype).reshape(shape, order=order)


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it asks for another kind of array")
    return _Array()


def _scalar(kind: Any, content: Any) -> Any:
    return _to_array(content, kind, (), "C").item()


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    return _to_array(content, kind, shape, order)


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 represents bytes in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it asks for an encoding other than latin1")
    return codecs.encode(text, "latin1")


def _empty() -> bytes:
    """Stands for `bytes`, by which Python 3 represents empty bytes in protocol 2."""
    return b""


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module in ("multiarray", "numeric")
    for name, function in {"_reconstruct": _reconstruct, "scalar": _scalar, "_frombuffer": _frombuffer}.items()
}
_REFUSED = "PERSID BINPERSID INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 EMPTY_SET ADDITEMS FROZENSET NEXT_BUFFER READONLY_BUFFER"

_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):  # type: ignore[misc]
    """An unpickler that builds builtin containers and the objects in `_ADMITTED` only."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_Unpickler.dispatch)

    def __init__(self, file: _Bounded) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only arrays and containers are allowed")
        return _ADMITTED[module, name]

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it builds objects other than arrays and containers")

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if function is _Array or not any(function is admitted for admitted in _ADMITTED.values()):
            self.refuse()
        self.stack[-1] = function(*arguments)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Type | _Array) or not isinstance(state, tuple):
            self.refuse()
        target.build(state)
        self.unwrap()

    def unwrap(self) -> None:
        """Replace a completed `_Array` on the stack by its array."""
        top = self.stack[-1]
        if isinstance(top, _Array) and top.array is not None:
            self.stack[-1] = top.array

    def get(self) -> None:
        self.load_get()
        self.unwrap()

    def get_short(self) -> None:
        self.load_binget()
        self.unwrap()

    def get_long(self) -> None:
        self.load_long_binget()
        self.unwrap()

    def _keys(self, keys: list[Any]) -> None:
        """Allow only numbers and text as keys: hashing nested containers can crash the process."""
        if not all(isinstance(key, str | bytes | int | float) for key in keys):
            self.refuse()

    def set_item(self) -> None:
        self._keys(self.stack[-2:-1])
        self.load_setitem()

    def set_items(self) -> None:
        self._keys(self.stack[::2])
        self.load_setitems()

    def dictionary(self) -> None:
        self._keys(self.stack[::2])
        self.load_dict()

    for _name in _REFUSED.split():
        dispatch[getattr(pickle, _name)[0]] = refuse
    dispatch[pickle.REDUCE[0]] = reduce
    dispatch[pickle.BUILD[0]] = build
    dispatch[pickle.GET[0]] = get
    dispatch[pickle.BINGET[0]] = get_short
    dispatch[pickle.LONG_BINGET[0]] = get_long
    dispatch[pickle.SETITEM[0]] = set_item
    dispatch[pickle.SETITEMS[0]] = set_items
    dispatch[pickle.DICT[0]] = dictionary
