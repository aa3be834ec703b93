"""Distributes samples and images over a mesh of many devices, in one process or several processes.

Weights are whole on every device, or split along the mesh's second axis. Each process runs the same program on the same
inputs. Only the first process writes files.
"""

import functools
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import struct
from flax.core import meta
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_WEIGHTS = "weights"  # the mesh's axis over which weights are split
_AXES = ("data", _WEIGHTS)  # samples are distributed over both axes


def start() -> None:
    """Connects the processes of a job. Must be called before anything else uses JAX.

    On TPU pods, under Slurm and under Open MPI, JAX finds the other processes by itself. Elsewhere,
    JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID must be set.
    Raises ValueError if the processes cannot be connected.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = (os.environ.get(name) for name in names)
    try:
        if address and count and index:
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot join other processes ({reason}): if JAX does not find them, set {names}") from error


def is_first() -> bool:
    """Returns whether this process is the first process, which writes files and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process. All processes must call this function."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def agreed(number: int) -> int:
    """Returns in every process the number that the first process has. All processes must call this function."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.array(number)))


def make_mesh(samples: int, devices: int = 0, weight_shards: int = 1) -> Mesh:
    """Returns a mesh of as many devices as can share `samples` evenly.

    samples: the number of samples that go through the networks together. devices: how many devices may be used, 0 for
    all. weight_shards: the number of devices over which the weights are split.
    Raises ValueError if `devices` is more than the number of available devices, if no multiple of `weight_shards`
    devices can share the samples evenly, or if a process would have no device in the mesh.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        raise ValueError(
            f"devices={devices}: there are {len(available)} {available[0].platform} devices; give that many or fewer, "
            "or 0 for all"
        )
    available = available[: devices or len(available)]
    counts = range(weight_shards, len(available) + 1, weight_shards)
    count = max((n for n in counts if samples % n == 0), default=0)
    if not count:
        raise ValueError(
            f"weight_shards={weight_shards} devices cannot share {samples} samples evenly, or are more than the "
            f"{len(available)} available: change weight_shards, or make config.samples_at_once a multiple of it"
        )
    busy = {device.process_index for device in available[:count]}
    if len(busy) < jax.process_count():
        raise ValueError(
            f"{samples} samples keep only {len(busy)} of {jax.process_count()} processes busy: start {len(busy)}, or "
            f"set config.samples_at_once to a multiple of {len(jax.devices())}"
        )
    return Mesh(np.array(available[:count]).reshape(-1, weight_shards), _AXES)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies each array of the tree whole to every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def share(batch: Any, mesh: Mesh) -> Any:
    """Splits each array of a batch along its first axis over the mesh's devices.

    An array whose first axis cannot be split evenly is copied whole to every device.
    """

    def place(array: np.ndarray | jax.Array) -> jax.Array:
        evenly = array.ndim and len(array) % mesh.size == 0
        return jax.device_put(array, NamedSharding(mesh, P(_AXES) if evenly else P()))

    return jax.tree.map(place, batch)


def shardings(weights: Any, mesh: Mesh) -> Any:
    """Returns each weight's sharding: kernels are split over the mesh's weight axis, other weights are not split."""
    return jax.tree.map(lambda axis: NamedSharding(mesh, _spec(axis)), _cuts(weights, mesh))


def split(weights: Any, mesh: Mesh) -> Any:
    """Places weights on devices as `shardings` says."""

    def place(array: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        # device_put would send every weight to all processes, to check that all have the same values.
        return jax.make_array_from_callback(array.shape, sharding, np.asarray(array).__getitem__)

    return jax.tree.map(place, weights, shardings(weights, mesh))


def collectives(program: str) -> list[tuple[str, int]]:
    """Returns for each collective in a compiled program its kind, and the size of its result in bytes.

    program: the text of the compiled program. A collective in the body of a loop is listed once.
    """
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    found = []
    for shapes, kind in re.findall(rf" = (.*?) ({kinds})(?:-start)?\(", program):
        arrays = [_bytes(*array) for array in re.findall(r"([a-z]+)(\d*)\w*\[([\d,]*)\]", shapes)]
        found.append((kind, sum(arrays)))
    return found


def _bytes(kind: str, bits: str, shape: str) -> int:
    """Returns the size in bytes of an array with an XLA type of kind + bits, such as f32, and a shape such as 2,3."""
    return math.prod(map(int, filter(None, shape.split(",")))) * int(bits or 8) // 8


def whole(tree: Any, mesh: Mesh) -> Any:
    """Constrains the tree's arrays, inside a compiled program, to be whole on every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def mesh_of(tree: Any) -> Mesh:
    """Returns the mesh on which `replicate` or `split` placed a tree; if neither did, a mesh of its device."""
    leaf = jax.tree.leaves(tree)[0]
    sharding = getattr(leaf, "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    if isinstance(mesh, Mesh) and mesh.axis_names == _AXES:
        return mesh
    device = min(leaf.devices(), key=lambda device: device.id) if sharding else jax.local_devices()[0]
    return Mesh(np.array([[device]]), _AXES)


def over_samples(function: Callable, mesh: Mesh) -> Callable:
    """Wraps `function(params, *arrays)` so that each device computes its share of the arrays' first axis.

    The result has the same first axis. `params` must have been placed by `split`; Flax's modules gather each weight
    where they use it. There is no other communication between devices, neither forward nor backward: the gradients with
    respect to the arrays stay on the device that computes them.
    """
    share = P(_AXES)

    @functools.wraps(function)
    def sharded(params: Any, *arrays: jax.Array) -> Any:
        cuts = _cuts(params, mesh)

        def on_device(params: Any, *arrays: jax.Array) -> Any:
            piece = lambda array, axis: array if axis < 0 else _Piece(array, axis)
            return function(jax.tree.map(piece, params, cuts), *arrays)

        specs = (jax.tree.map(_spec, cuts), *(share for _ in arrays))
        return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=share, check_vma=False)(params, *arrays)

    return sharded


@struct.dataclass
class _Piece(meta.AxisMetadata):
    """The part of a weight that one device holds. When a Flax module uses the weight, its parts are gathered.

    Computations that are repeated for the backward pass gather the weight again, so that no device ever holds all
    weights at the same time.
    """

    value: jax.Array
    axis: int = struct.field(pytree_node=False)

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    def unbox(self) -> jax.Array:
        return jax.lax.all_gather(self.value, _WEIGHTS, axis=self.axis, tiled=True)

    def replace_boxed(self, val: Any) -> "_Piece":
        return _Piece(val, self.axis)

    def add_axis(self, index: int, params: dict) -> "_Piece":
        raise NotImplementedError

    remove_axis = add_axis


def _cuts(weights: Any, mesh: Mesh) -> Any:
    """Returns for each weight the axis to split, the last axis that can be split evenly; -1 for no axis.

    Only kernels are split. The token table stays whole, because it is also used outside the networks. Other weights
    stay whole because they are small.
    """
    shards = mesh.shape[_WEIGHTS]

    def cut(path: tuple, array: np.ndarray | jax.Array) -> int:
        axes = [axis for axis, size in enumerate(array.shape) if size % shards == 0]
        is_kernel = path and path[-1] == jax.tree_util.DictKey("kernel")
        return axes[-1] if shards > 1 and is_kernel and axes else -1

    return jax.tree_util.tree_map_with_path(cut, weights)


def _spec(axis: int) -> P:
    return P(*[None] * axis, _WEIGHTS) if axis >= 0 else P()
