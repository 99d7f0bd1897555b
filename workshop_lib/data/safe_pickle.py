"""Reads pickled records without ever running code from them.

A pickle is a small program: loading one from a stranger may call any function. Here only
dictionaries, lists, tuples, strings, bytes, numbers and numpy arrays of plain numbers come
through; a record that names anything else is refused before it can do harm. Arrays are rebuilt
by our own few lines, so nothing in the record reaches numpy's C code unchecked, and no memory is
set aside because a record claims to be big.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


class RefusedPickleError(Exception):
    """The record is no pickle of plain data; the message says what it holds instead."""


def loads(data: bytes) -> Any:
    """The plain data pickled in `data`.

    Raises RefusedPickleError for anything but plain data and numpy arrays, and for broken bytes.
    """
    try:
        return _finish(_PlainUnpickler(io.BytesIO(data)).load())
    except RefusedPickleError:
        raise
    except Exception as error:  # broken bytes can raise nearly anything inside the unpickler
        raise RefusedPickleError(f"broken pickle ({type(error).__name__}: {error})") from error


class _Dtype:
    """Stands for numpy.dtype while unpickling: plain numbers only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or code[:1] not in "biuf" or not code[1:].isdigit():
            raise RefusedPickleError(f"array of type {code!r}: only plain numbers are read")
        self.code, self.byte_order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byte_order = state[1] if state[1] in ("<", ">") else "="

    def dtype(self) -> np.dtype:
        return np.dtype(self.byte_order + self.code)


class _Array:
    """Stands for numpy.ndarray while unpickling; `finish` makes the real one."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, self.fortran, self.buffer = state

    def finish(self) -> np.ndarray:
        return _array(self.buffer, self.type, self.shape, "F" if self.fortran else "C")


def _array(buffer: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(buffer, (bytes, bytearray)):
        raise RefusedPickleError("array without plain bytes: only plain numbers are read")
    real = dtype.dtype()
    if math.prod(shape) * real.itemsize != len(buffer):
        raise RefusedPickleError(f"array of shape {shape} has {len(buffer)} bytes")
    return np.frombuffer(buffer, dtype=real).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, buffer: Any) -> Any:
    return _array(buffer, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise RefusedPickleError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


class _Never:
    """Stands for the class numpy.ndarray itself, which is only ever named, not called."""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Never,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,  # this and the next: bytes in pickle protocol 2
    ("__builtin__", "bytes"): _empty_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2 name it differently
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = lambda *_: _Array()
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _array


# The pure-Python unpickler on purpose: it sets memory aside only for bytes that are there, where
# the C one trusts lengths and memo numbers that the record claims. A record has few opcodes, so
# this costs .1 ms.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise RefusedPickleError(
                f"it names {module}.{name}, which is not plain data; nothing was run"
            ) from None


def _finish(value: Any) -> Any:
    """Replaces the stand-ins by real arrays."""
    if isinstance(value, _Array):
        return value.finish()
    if isinstance(value, dict):
        return {_finish(key): _finish(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_finish(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, bytes, bytearray)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return value
    raise RefusedPickleError(f"it holds a {type(value).__name__}, which is not plain data")
