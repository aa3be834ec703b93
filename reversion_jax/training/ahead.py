"""Compiles the training step while the weights are read. Compiling needs the arrays' shapes, but not their values."""

from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reversion_jax.inversion import step
from reversion_jax.runtime import compilation, parallel
from reversion_jax.runtime.timeline import Timeline


def compile_step(
    rows: jax.ShapeDtypeStruct,
    params: Any,
    data: Any,
    hyper: Any,
    *,
    mesh: Mesh,
    products: str,
    timeline: Timeline,
    **static: Any,
) -> "Future[Any]":
    """Compiles `step.train_steps` in the background. JAX caches the compiled function for later calls.

    rows, params, data, hyper: arrays, or the arrays' shapes. As in a `Job`, `params` is sharded over the mesh, and the
    other arrays are replicated on each device of the mesh.
    products: the precision of float32 matrix products, see `precision.products`.
    static: the remaining static arguments of `train_steps`.
    """

    def sharded(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def compile_it() -> None:
        state = jax.eval_shape(lambda rows: step.init_state(rows, static["config"]), rows)
        whole = NamedSharding(mesh, P())
        small = jax.tree.map(lambda leaf: sharded(leaf, whole), (state, data, hyper))
        weights = jax.tree.map(sharded, params, parallel.shardings(params, mesh))
        count = jax.ShapeDtypeStruct((), jnp.int32)
        with timeline.part("compile the step"), jax.default_matmul_precision(products):
            step.train_steps.lower(small[0], count, weights, *small[1:], mesh=mesh, **static).compile()

    return compilation.in_background(compile_it)
