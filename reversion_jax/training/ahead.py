"""Compiles programs while the weights are read. Compiling needs the arrays' shapes, but not their values.

JAX keeps each compiled program for the call that needs it later.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reversion_jax.drawing import generate
from reversion_jax.inversion import step
from reversion_jax.runtime import compilation
from reversion_jax.runtime.parallel import mesh_of, shardings
from reversion_jax.runtime.timeline import Timeline
from reversion_jax.weights.folder import StableDiffusion


def without_weights(sd: StableDiffusion, mesh: jax.sharding.Mesh) -> StableDiffusion:
    """Returns a model whose params are the shapes of `sd.params`, sharded as `parallel.split` places the weights."""
    return sd._replace(params=jax.tree.map(_sharded, sd.params, shardings(sd.params, mesh)))


def compile_step(
    rows: jax.ShapeDtypeStruct, sd: StableDiffusion, data: Any, hyper: Any, *, timeline: Timeline, **static: Any
) -> "Future[Any]":
    """Compiles `step.train_steps` in the background.

    rows, data, hyper: arrays, or the arrays' shapes. As in a `Job`, they are replicated on each device.
    sd: a model, or the result of `without_weights`. static: the remaining static arguments of `train_steps`.
    """
    mesh = mesh_of(sd.params)

    def compile_it() -> None:
        state = jax.eval_shape(lambda rows: step.init_state(rows, static["config"]), rows)
        whole = NamedSharding(mesh, P())
        small = jax.tree.map(lambda leaf: _sharded(leaf, whole), (state, data, hyper))
        count = jax.ShapeDtypeStruct((), jnp.int32)
        of_model = {"model": sd.config, "schedule": sd.schedule, "mesh": mesh}
        with timeline.part("compile the step"), jax.default_matmul_precision(sd.products):
            step.program(sd.params, mesh).lower(small[0], count, sd.params, *small[1:], **of_model, **static).compile()

    return compilation.in_background(compile_it)


def compile_drawing(
    sd: StableDiffusion,
    prompts: Sequence[str],
    length: int,
    num_rows: int,
    *,
    sampling: generate.Sampling,
    timeline: Timeline,
    after: "Future[Any] | None" = None,
) -> "Future[Any]":
    """Compiles the programs that draw the previews in the background; for arguments see `generate.lower`.

    after: another compilation, which must be done before this one starts.
    """

    def compile_it() -> None:
        with timeline.part("compile the drawing"):
            for program in generate.lower(sd, prompts, length, num_rows, sampling=sampling):
                program.compile()

    return compilation.in_background(compile_it, after)


def _sharded(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
