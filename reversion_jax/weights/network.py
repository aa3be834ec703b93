"""One network's weights: tensors in files, fitted to a parameter tree and put on the device."""

from collections.abc import Callable, Mapping
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

# Buffers that some versions of PyTorch's classes stored beside the parameters.
_NOT_PARAMETER = "embeddings.position_ids"


class Network(NamedTuple):
    """One network's tensors, and how they are called and laid out in their files."""

    where: Path  # for people
    stored: dict[str, Stored]
    names: Callable[[str], tuple[str, ...]]  # of one of our paths, those it may have
    to_ours: Callable[[str, np.ndarray], np.ndarray]
    to_theirs: Callable[[str, np.ndarray], np.ndarray]


def open_folder(folder: Path, part: str) -> Network:
    """The weights in a folder, safetensors or msgpack, called as a `part` of layout.WEIGHT_FILES; ValueError."""
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    files = weight_files(part, present, folder)
    if files[0] == FLAX_FILES[part]:
        # Our trees are those classes'.
        return Network(folder, open_msgpack(folder / files[0]), lambda path: (path,), _as_it_is, _as_it_is)
    if files[0].endswith(".json"):
        files = sorted(set(read_json(folder / files[0]).get("weight_map", {}).values()))
    stored: dict[str, Stored] = {}
    for name in files:
        stored |= open_safetensors(folder / name)
    return Network(folder, stored, names.torch_names, names.from_torch, names.to_torch)


class Match(NamedTuple):
    """What was found for a parameter tree."""

    found: dict[str, Stored]  # by path
    wrong: list[str]  # what is missing or misshaped
    left: list[str]  # names of tensors that are nobody's: what other tools left in the file


def match(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Match:
    """The tensor for each path of `shapes`, and what does not fit. Reads none of them."""
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
    """ValueError with all that is wrong, by network; else a warning that counts the tensors that are nobody's."""
    if wrong := [f"  {name}: {w}" if name else f"  {w}" for name, found in matches.items() for w in found.wrong]:
        raise ValueError("\n".join([f"the weights in {where} do not fit their configs:", *wrong]))
    if left := [name for found in matches.values() for name in found.left]:
        warn(f"{where}: {len(left)} tensors are of no use here and left out, such as {left[0]}")


def place(
    found: Mapping[str, Stored],
    network: Network,
    types: Mapping[str, DTypeLike],
    put: Callable[[Any], Any] = jax.device_put,
) -> dict[str, Any]:
    """Reads tensors, one after the other, and puts them on devices, each in the type that `types` has for its path.

    ValueError for integers, and for numbers that are none.
    """
    params = {}
    for path, tensor in found.items():
        array = tensor.read()
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{path} is stored as {array.dtype}: quantised weights cannot be read, only floats")
        if not all_finite(array):
            raise ValueError(
                f"{network.where}: {path} holds NaN or infinity, so every picture would be black: take another copy of "
                "the model"
            )
        array = np.asarray(network.to_ours(path, array), types[path], order="C")
        alone = unflatten_dict({path: array}, sep="/")
        # Waits: what is still to be copied would pile up beside the copies.
        (params[path],) = jax.block_until_ready(jax.tree.leaves(put(alone)))
    return unflatten_dict(params, sep="/")


def _blank(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.False_, shape)


def _as_it_is(path: str, array: np.ndarray) -> np.ndarray:
    return array
