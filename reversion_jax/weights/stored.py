"""Tensors as they lie in files, read one at a time: safetensors, and flax.serialization's msgpack."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open

from reversion_jax.runtime import files
from reversion_jax.weights.floats import FLOATS

_DAMAGED = "it is damaged, incomplete or a Git LFS pointer, so fetch it again"
_NDARRAY = 1  # flax.serialization's number for it


class Stored(NamedTuple):
    """A tensor in a file: of what shape, and how to get it, once."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name, of whatever float type; ValueError if it is none or not whole."""

    @cache
    def header() -> tuple[int, dict[str, Any]]:
        """Where the numbers begin, and each tensor's place; checked when the file was opened."""
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            return 8 + size, json.loads(raw.read(size))

    def read(name: str) -> np.ndarray:
        # Opened for each: of an open file, all that was read of it stays in memory.
        with safe_open(path, framework="numpy") as file:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in FLOATS:
                return file.get_tensor(name)
        begin, tensors = header()
        start, end = tensors[name]["data_offsets"]
        with path.open("rb") as raw:
            raw.seek(begin + start)
            return np.frombuffer(raw.read(end - start), FLOATS[dtype]).reshape(tensors[name]["shape"])

    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ValueError(f"cannot read {path} ({error}): {_DAMAGED}") from error
    return {name: Stored(shape, partial(read, name)) for name, shape in shapes.items()}


def open_msgpack(path: Path) -> dict[str, Stored]:
    """The arrays of a tree that flax.serialization wrote, by "/"-joined path; ValueError as above.

    Holds them all, each until it is read. Flax's own reader would hold the file as well.
    """
    try:
        with path.open("rb") as file:
            tree = msgpack.Unpacker(file, read_size=1 << 20, max_buffer_size=2**31 - 1, ext_hook=_array).unpack()
        arrays = flatten_dict(tree, sep="/")
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("not only arrays")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgpack.UnpackException, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"cannot read {path} ({type(error).__name__}): {_DAMAGED}") from error
    return {name: Stored(array.shape, partial(arrays.pop, name)) for name, array in arrays.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's values by their keys; ValueError if it cannot be read."""
    try:
        values = files.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"cannot read {path}: expected keys and values")
    return values


def _array(code: int, data: bytes) -> np.ndarray:
    if code != _NDARRAY:
        raise ValueError(f"msgpack extension {code} is no array")
    shape, dtype, values = msgpack.unpackb(data, raw=True)
    return np.frombuffer(values, np.dtype(dtype.decode())).reshape(shape)
