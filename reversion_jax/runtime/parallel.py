"""Many devices, of one process or several: a mesh over all of which samples and images are laid.

Weights are whole on every device, or cut over the mesh's second axis. Each process runs the same program on the same
inputs; the first one writes files.
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

_WEIGHTS = "weights"  # the axis that weights are cut over
_AXES = ("data", _WEIGHTS)  # samples are laid over both


def start() -> None:
    """Joins the processes of a job, before anything else uses JAX; ValueError where there is no such job.

    On TPU pods, under Slurm and under Open MPI it finds the others by itself; elsewhere JAX_COORDINATOR_ADDRESS
    (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say who they are.
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
        raise ValueError(f"cannot join other processes ({reason}): where they are not found, set {names}") from error


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them have to ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def agreed(number: int) -> int:
    """The first process's number, for all of them; all have to ask."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.array(number)))


def make_mesh(samples: int, devices: int = 0, weight_shards: int = 1) -> Mesh:
    """A mesh of the most devices that share `samples` evenly, of the first `devices` (0: all there are).

    `weight_shards` devices hold the weights together. ValueError if there are not so many devices, or not so many that
    share the samples, or if a process would have none of them.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        raise ValueError(f"devices={devices}: there are {len(available)} {available[0].platform} devices")
    available = available[: devices or len(available)]
    counts = range(weight_shards, len(available) + 1, weight_shards)
    count = max((n for n in counts if samples % n == 0), default=0)
    if not count:
        raise ValueError(
            f"weight_shards={weight_shards} devices cannot share {samples} samples evenly, or are more than the "
            f"{len(available)} there are: set another, or make config.samples_at_once a multiple of it"
        )
    busy = {device.process_index for device in available[:count]}
    if len(busy) < jax.process_count():
        raise ValueError(
            f"{samples} samples keep {len(busy)} of {jax.process_count()} processes busy: start as many, or set "
            f"config.samples_at_once to a multiple of {len(jax.devices())}"
        )
    return Mesh(np.array(available[:count]).reshape(-1, weight_shards), _AXES)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree's arrays, whole on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def share(batch: Any, mesh: Mesh) -> Any:
    """A batch's arrays, their first axis cut over the mesh's devices; whole on each where it cannot be cut evenly."""

    def place(array: np.ndarray | jax.Array) -> jax.Array:
        evenly = array.ndim and len(array) % mesh.size == 0
        return jax.device_put(array, NamedSharding(mesh, P(_AXES) if evenly else P()))

    return jax.tree.map(place, batch)


def shardings(weights: Any, mesh: Mesh) -> Any:
    """Where weights go: kernels cut over the mesh's weight shards, the others whole on every device."""
    return jax.tree.map(lambda axis: NamedSharding(mesh, _spec(axis)), _cuts(weights, mesh))


def split(weights: Any, mesh: Mesh) -> Any:
    """Places weights on devices as `shardings` says."""

    def place(array: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        # device_put would send every weight round, to see that all processes have the same.
        return jax.make_array_from_callback(array.shape, sharding, np.asarray(array).__getitem__)

    return jax.tree.map(place, weights, shardings(weights, mesh))


def collectives(program: str) -> list[tuple[str, int]]:
    """What passes between devices in a compiled program's text: each collective's kind and the bytes of its result.

    Those in a loop's body are there once.
    """
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    found = []
    for shapes, kind in re.findall(rf" = (.*?) ({kinds})(?:-start)?\(", program):
        arrays = [_bytes(*array) for array in re.findall(r"([a-z]+)(\d*)\w*\[([\d,]*)\]", shapes)]
        found.append((kind, sum(arrays)))
    return found


def _bytes(kind: str, bits: str, shape: str) -> int:
    """Of an array of XLA's type kind + bits, such as f32, and shape, such as 2,3."""
    return math.prod(map(int, filter(None, shape.split(",")))) * int(bits or 8) // 8


def whole(tree: Any, mesh: Mesh) -> Any:
    """In a compiled program: has the tree's arrays computed whole on every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def mesh_of(tree: Any) -> Mesh:
    """The mesh that `replicate` or `split` laid a tree on; for any other tree that of the device it lies on."""
    leaf = jax.tree.leaves(tree)[0]
    sharding = getattr(leaf, "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    if isinstance(mesh, Mesh) and mesh.axis_names == _AXES:
        return mesh
    device = min(leaf.devices(), key=lambda device: device.id) if sharding else jax.local_devices()[0]
    return Mesh(np.array([[device]]), _AXES)


def over_samples(function: Callable, mesh: Mesh) -> Callable:
    """`function(params, *arrays)`, each device on its share of the arrays' first axis; what it returns has that axis.

    Of `params`, laid by `split`, Flax's modules find each weight whole where they use it. Nothing else passes between
    devices, neither forwards nor backwards: the arrays' gradients stay where they arise.
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
    """What a device has of a weight. A module that asks for the weight gets all of it, gathered there and then.

    So what is computed again for the backward pass gathers again, and nothing holds all weights at a time.
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
    """The axis that each weight is cut along, the last that can be cut evenly; -1: it stays whole.

    Only kernels are cut: the others are small, or the token table, which more than the networks use.
    """
    shards = mesh.shape[_WEIGHTS]

    def cut(path: tuple, array: np.ndarray | jax.Array) -> int:
        axes = [axis for axis, size in enumerate(array.shape) if size % shards == 0]
        is_kernel = path and path[-1] == jax.tree_util.DictKey("kernel")
        return axes[-1] if shards > 1 and is_kernel and axes else -1

    return jax.tree_util.tree_map_with_path(cut, weights)


def _spec(axis: int) -> P:
    return P(*[None] * axis, _WEIGHTS) if axis >= 0 else P()
