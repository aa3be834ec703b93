"""Many devices: a mesh of one axis, along which samples and images are laid. Weights are whole on every device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_AXIS = "data"


def make_mesh(samples: int, devices: int = 0) -> Mesh:
    """A mesh of the most devices that share `samples` evenly, of the first `devices` (0: all there are).

    ValueError if there are not so many.
    """
    available = jax.devices()
    if not 0 <= devices <= len(available):
        raise ValueError(f"config.devices={devices}: there are {len(available)} {available[0].platform} devices")
    available = available[: devices or len(available)]
    count = max(n for n in range(1, len(available) + 1) if samples % n == 0)
    return Mesh(np.array(available[:count]), (_AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree's arrays, whole on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def whole(tree: Any, mesh: Mesh) -> Any:
    """In a compiled program: has the tree's arrays computed whole on every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def mesh_of(tree: Any) -> Mesh:
    """The mesh that `replicate` laid a tree on; for any other tree that of one device."""
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else make_mesh(1)


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
