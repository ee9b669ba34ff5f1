"""Pickles of numpy arrays, read without building anything but numbers, text, lists, dictionaries and arrays of plain numbers.

numpy's own way to pickle an array hands its type and its state to numpy, where a hostile file can make an array of pointers. Here
only the shape, the type's name and the bytes are taken from the file, and checked before an array is made of them. The reader
is Python's own in Python: the one in C reserves memory for whatever place a file names.
"""

import codecs
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarun.config import ConfigError

KINDS = "biuf"
"""Of numbers: booleans, integers with and without sign, floating-point numbers."""


def load_arrays(path: Path, most: int) -> Any:
    """What a pickle of numpy arrays and builtin containers of at most ``most`` bytes holds; arrays are read-only.

    Raises:
        ConfigError: it asks for anything else, which is named, or it is no such pickle.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise ValueError(f"{size:,} bytes, more than the data set needs")
        with path.open("rb") as file:
            return _Reader(_Bounded(file, size)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ConfigError(f"{path}: not a readable pickle of arrays ({reason})") from None


class _Bounded:
    """A file that is asked for no more than it has: memory is reserved for what is asked for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def read(self, count: int) -> bytes:
        if count < 0 or count > self.left:
            raise pickle.UnpicklingError("it ends too early")
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
    """The type of an array: its name, as `u1`, and its order of bytes, as far as the file says one."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = _plain(name)

    def build(self, state: Any) -> None:
        """``state``: version, order of bytes, and what only types with fields have."""
        order, *rest = state[1:]
        if order not in "<>|=" or any(part is not None for part in rest[:3]):
            raise pickle.UnpicklingError("it asks for an array of something else than numbers")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array to be: `numpy.ndarray` in the file, filled by its state."""

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        """``state``: version, shape, type, whether columns come first, bytes."""
        *_, shape, kind, columns_first, content = state
        self.array = _made(content, kind, shape, "F" if columns_first else "C")


def _plain(name: Any) -> np.dtype[Any]:
    found = np.dtype(name) if isinstance(name, str) and len(name) <= 8 else None
    if found is None or found.kind not in KINDS or found.fields or found.subdtype:
        raise pickle.UnpicklingError("it asks for an array of something else than numbers")
    return found


def _made(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if isinstance(content, str):  # Python 2 wrote bytes as text
        content = content.encode("latin1")
    fits = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not (fits and isinstance(kind, _Type) and isinstance(content, bytes | bytearray) and order in ("C", "F")):
        raise pickle.UnpicklingError("it holds an array of a form that numpy does not write")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"it holds {len(content):,} bytes for an array of shape {shape} and type {kind.dtype}")
    return np.frombuffer(bytes(content), kind.dtype).reshape(shape, order=order)


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it asks for another kind of array")
    return _Array()


def _scalar(kind: Any, content: Any) -> Any:
    return _made(content, kind, (), "C").item()


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    return _made(content, kind, shape, order)


def _encode(text: Any, encoding: Any) -> bytes:
    """What Python 3 writes for bytes in the pickles of Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it asks for another encoding than latin1")
    return codecs.encode(text, "latin1")


def _empty() -> bytes:
    """What Python 3 writes for empty bytes in the pickles of Python 2."""
    return b""


_STANDS_FOR: dict[tuple[str, str], Any] = {
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


_PYTHONS: Any = pickle._Unpickler


class _Reader(_PYTHONS):  # type: ignore[misc]
    """Builds what `_STANDS_FOR` admits, and nothing by itself."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_PYTHONS.dispatch)

    def __init__(self, file: _Bounded) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDS_FOR:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and arrays and containers alone are admitted")
        return _STANDS_FOR[module, name]

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it builds something else than arrays and containers")

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if function is _Array or not any(function is known for known in _STANDS_FOR.values()):
            self.refuse()
        self.stack[-1] = function(*arguments)

    def build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if not isinstance(made, _Type | _Array) or not isinstance(state, tuple):
            self.refuse()
        made.build(state)
        self.unwrap()

    def unwrap(self) -> None:
        """In place of an array to be the array itself, once it is filled."""
        made = self.stack[-1]
        if isinstance(made, _Array) and made.array is not None:
            self.stack[-1] = made.array

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
        """Keys are numbers and text: to hash containers within containers can end the process."""
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
