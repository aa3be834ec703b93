"""Many devices, of one process or several: a mesh of one axis, along which samples and images are laid.

Weights are whole on every device. Each process runs the same program on the same inputs; the first one writes files.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_AXIS = "data"


def start() -> None:
    """Joins the processes of a job, before anything else uses JAX; ValueError where there is no such job.

    On TPU pods, under Slurm and under Open MPI it finds the others by itself; elsewhere JAX_COORDINATOR_ADDRESS
    (host:port of the first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID say who they are.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [os.environ.get(name) for name in names]
    try:
        if all(given):
            jax.distributed.initialize(given[0], int(given[1]), int(given[2]))
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


def make_mesh(samples: int, devices: int = 0) -> Mesh:
    """A mesh of the most devices that share `samples` evenly, of the first `devices` (0: all there are).

    ValueError if there are not so many, or if a process would have none of them.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        raise ValueError(f"config.devices={devices}: there are {len(available)} {available[0].platform} devices")
    available = available[: devices or len(available)]
    count = max(n for n in range(1, len(available) + 1) if samples % n == 0)
    busy = {device.process_index for device in available[:count]}
    if len(busy) < jax.process_count():
        raise ValueError(
            f"{samples} samples keep {len(busy)} of {jax.process_count()} processes busy: start as many, or set "
            f"config.batch_size to a multiple of {len(jax.devices())}"
        )
    return Mesh(np.array(available[:count]), (_AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree's arrays, whole on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def whole(tree: Any, mesh: Mesh) -> Any:
    """In a compiled program: has the tree's arrays computed whole on every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def mesh_of(tree: Any) -> Mesh:
    """The mesh that `replicate` laid a tree on; for any other tree that of the device it lies on."""
    leaf = jax.tree.leaves(tree)[0]
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh.axis_names == (_AXIS,):
        return sharding.mesh
    device = min(leaf.devices(), key=lambda device: device.id) if sharding else jax.local_devices()[0]
    return Mesh(np.array([device]), (_AXIS,))


def over_samples(function: Callable, mesh: Mesh) -> Callable:
    """`function(params, *arrays)`, each device on its share of the arrays' first axis; what it returns has that axis.

    Nothing passes between devices, neither forwards nor backwards: the arrays' gradients stay where they arise.
    """
    share = P(_AXIS)

    @functools.wraps(function)
    def sharded(params: Any, *arrays: jax.Array) -> Any:
        specs = (P(), *(share for _ in arrays))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=share, check_vma=False)(params, *arrays)

    return sharded
