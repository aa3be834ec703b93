"""Loads one network's weights: finds each parameter's tensor in files, checks the tensor, puts it on devices."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from numpy.typing import DTypeLike

from reversion_jax.runtime.errors import warn
from reversion_jax.weights import names
from reversion_jax.weights.floats import all_finite
from reversion_jax.weights.layout import FLAX_FILES, weight_files
from reversion_jax.weights.stored import Stored, open_msgpack, open_safetensors, read_json

# A buffer that some versions of transformers stored beside the parameters.
_NOT_PARAMETER = "embeddings.position_ids"
_AT_ONCE = 4  # tensors that are read at a time
_BLOCK = 64  # entries of the last axis, so that a block of a transposed array fits into a core's cache
_ALIGNMENT = 64  # bytes; the alignment that JAX's CPU device needs


class Network(NamedTuple):
    """One network's tensors in files, and how to convert names and layouts between our trees and these files."""

    where: Path  # the folder or file, for messages
    stored: dict[str, Stored]  # the tensors, by their names in the files
    names: Callable[[str], tuple[str, ...]]  # the names that the files may use for one of our paths
    to_ours: Callable[[str, np.ndarray], np.ndarray]  # converts the array of one of our paths to our layout
    to_theirs: Callable[[str, np.ndarray], np.ndarray]  # converts our array to the layout in the files


def open_folder(folder: Path, part: str) -> Network:
    """Opens the weights in a folder, safetensors or msgpack. Raises ValueError if weights are missing or damaged.

    part: the key of layout.WEIGHT_FILES that says how the files are named.
    """
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    files = weight_files(part, present, folder)
    if files[0] == FLAX_FILES[part]:
        # Our parameter trees have the names and layouts of diffusers' former Flax classes.
        return Network(folder, open_msgpack(folder / files[0]), lambda path: (path,), _as_it_is, _as_it_is)
    if files[0].endswith(".json"):
        files = sorted(set(read_json(folder / files[0]).get("weight_map", {}).values()))
    stored: dict[str, Stored] = {}
    for name in files:
        stored |= open_safetensors(folder / name)
    return Network(folder, stored, names.torch_names, names.from_torch, names.to_torch)


class Match(NamedTuple):
    """The tensors that were found for a parameter tree, and the problems: missing, misshaped or unused tensors."""

    found: dict[str, Stored]  # the tensor for each path in the tree
    wrong: list[str]  # a message for each parameter that is missing or has the wrong shape
    left: list[str]  # names of tensors that no parameter needs, for example because another tool added them


def match(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Match:
    """Finds the tensor for each path in `shapes`, and collects the problems. Does not read the tensors."""
    left, found, complaints = dict(network.stored), {}, []
    for path, shape in shapes.items():
        candidates = network.names(path)
        name = next((n for n in candidates if n in left), None)
        if name is None:
            complaints.append(f"missing {candidates[0]}")
            continue
        found[path] = left.pop(name)
        if network.to_ours(path, _blank(found[path].shape)).shape != shape:
            wanted = network.to_theirs(path, _blank(shape)).shape
            complaints.append(f"misshaped {name}: {found[path].shape}, expected {wanted}")
    return Match(found, complaints, [name for name in left if not name.endswith(_NOT_PARAMETER)])


def check(where: Path, matches: Mapping[str, Match]) -> None:
    """Raises a ValueError that lists everything that is wrong, by network.

    If nothing is wrong, warns of unused tensors.
    """
    if wrong := [f"  {name}: {w}" if name else f"  {w}" for name, found in matches.items() for w in found.wrong]:
        raise ValueError("\n".join([f"the weights in {where} do not fit their configs:", *wrong]))
    if left := [name for found in matches.values() for name in found.left]:
        warn(f"{where}: {len(left)} tensors belong to none of the networks and are ignored, such as {left[0]}")


def place(
    found: Mapping[str, Stored],
    network: Network,
    types: Mapping[str, DTypeLike],
    put: Callable[[Any], Any] = jax.device_put,
) -> dict[str, Any]:
    """Reads tensors, a few at a time, and puts them on devices; returns them as a parameter tree.

    types: the dtype on the device for each path. put: places a tree of arrays on devices.
    Raises ValueError if a tensor holds integers, NaN or infinity.
    """

    def place_one(path: str) -> jax.Array:
        array = found[path].read()
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path} is stored as {array.dtype}: quantised weights cannot be read, only floats")
        if not all_finite(array):
            raise ValueError(
                f"{network.where}: {path} holds NaN or infinity, so every picture would be black: take another copy of "
                "the model"
            )
        array = _aligned(network.to_ours(path, array), types[path])
        alone = unflatten_dict({path: array}, sep="/")
        # Wait for each copy. Otherwise arrays that wait to be copied would fill the host's memory.
        (placed,) = jax.block_until_ready(jax.tree.leaves(put(alone)))
        return placed

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            params = dict(zip(found, threads.map(place_one, found), strict=True))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return unflatten_dict(params, sep="/")


def _aligned(array: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns a copy in C order, aligned so that JAX's CPU device uses its memory and makes no second copy.

    A transposed array is copied in blocks, in a third of the time of NumPy's copy.
    """
    dtype = np.dtype(dtype)
    memory = np.empty(array.size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.size * dtype.itemsize].view(dtype).reshape(array.shape)
    if array.flags.c_contiguous:
        copy[...] = array
        return copy
    for first in range(0, array.shape[-1], _BLOCK):
        copy[..., first : first + _BLOCK] = array[..., first : first + _BLOCK]
    return copy


def _blank(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of this shape that takes no memory, to find out which shape a conversion gives."""
    return np.broadcast_to(np.False_, shape)


def _as_it_is(path: str, array: np.ndarray) -> np.ndarray:
    return array
