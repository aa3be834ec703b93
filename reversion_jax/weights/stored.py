"""Opens files of tensors, which are then read one at a time: safetensors, and the msgpack of flax.serialization."""

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
_NDARRAY = 1  # the msgpack extension code that flax.serialization uses for arrays


class Stored(NamedTuple):
    """A tensor in a file: its shape, and a function that reads the tensor and returns it.

    The function may be called only once.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def open_safetensors(path: Path) -> dict[str, Stored]:
    """Returns a safetensors file's tensors by name, of any float type. Raises ValueError if the file is damaged."""

    @cache
    def header() -> tuple[int, dict[str, Any]]:
        """The offset of the numbers, and the entry of each tensor. safe_open has already checked them."""
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            return 8 + size, json.loads(raw.read(size))

    def read(name: str) -> np.ndarray:
        # Open the file anew for each tensor: while it is open, all that was read from it stays in memory.
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
    """Returns the arrays in a tree that flax.serialization wrote, by "/"-joined path.

    Each array stays in memory until it is read. Flax's own reader would also keep the whole file in memory. Raises
    ValueError if the file is damaged.
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
    """Returns a JSON file's values by key. Raises ValueError if the file cannot be read or has no keys."""
    try:
        values = files.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"cannot read {path}: expected a JSON object with keys and values")
    return values


def _array(code: int, data: bytes) -> np.ndarray:
    if code != _NDARRAY:
        raise ValueError(f"msgpack extension {code} is not an array")
    shape, dtype, values = msgpack.unpackb(data, raw=True)
    return np.frombuffer(values, np.dtype(dtype.decode())).reshape(shape)
