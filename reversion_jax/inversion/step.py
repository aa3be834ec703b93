"""The training step: draws samples, computes the gradient of the rows, and updates the rows by AdamW."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion.arrays import Data
from reversion_jax.inversion.draws import Hyperparameters, StepConfig, draw_batch
from reversion_jax.inversion.gradient import Metrics, gradients
from reversion_jax.models.presets import ModelConfig, compute_dtype
from reversion_jax.runtime.parallel import whole


class State(NamedTuple):
    """The values that training changes."""

    rows: jax.Array  # [R, P, D] trainable rows: R runs, P rows per run, D wide
    moments: Any  # state of the optimiser for the rows
    step: jax.Array  # int32 scalar, the number of steps done


def _optimiser(config: StepConfig, weight_decay: jax.Array) -> optax.GradientTransformation:
    """Returns AdamW without the learning rate, for rows [R, P, D]; weight_decay: [R, 1, 1], or one scalar."""
    adam = optax.scale_by_adam(config.adam_b1, config.adam_b2, config.adam_eps)
    return optax.chain(adam, optax.add_decayed_weights(weight_decay))


def init_state(initial_rows: jax.Array, config: StepConfig) -> State:
    """Returns the state before the first step, with the given rows [R, P, D]."""
    moments = _optimiser(config, jnp.zeros(())).init(initial_rows)
    # The rows are copied, because `train_steps` overwrites the buffers of the state.
    return State(jnp.array(initial_rows, jnp.float32), moments, jnp.zeros((), jnp.int32))


def train_step(
    state: State,
    params: Any,
    data: Data,
    hyper: Hyperparameters,
    model: ModelConfig,
    schedule: Schedule,
    config: StepConfig,
    mesh: Mesh | None = None,
) -> tuple[State, Metrics]:
    """Makes one AdamW step of every run, with newly drawn samples. Returns the new state and the losses."""
    batch = draw_batch(state.step, data, hyper, schedule, config)
    if mesh is not None:
        # Replicated: sharding this small computation would only add collectives.
        batch = whole(batch, mesh)
    grads, metrics = gradients(state.rows, batch, params, hyper, model, schedule, config, mesh)
    optimiser = _optimiser(config, hyper.weight_decay[:, None, None])
    updates, moments = optimiser.update(grads, state.moments, state.rows)
    # A run without inverse prompts does not update its rows of <R-inv>: only weight decay would change them.
    is_relation = jnp.arange(state.rows.shape[1]) < config.rows_per_token
    moves = is_relation[None, :] | (hyper.inverse_share > 0)[:, None]
    updates = jnp.where(moves[..., None], -hyper.learning_rate[:, None, None] * updates, 0.0)
    return State(state.rows + updates, moments, state.step + 1), metrics


def _train_steps(
    state: State,
    num_steps: jax.Array,
    params: Any,
    data: Data,
    hyper: Hyperparameters,
    *,
    model: ModelConfig,
    schedule: Schedule,
    config: StepConfig,
    capacity: int,
    mesh: Mesh | None = None,
) -> tuple[State, Metrics]:
    """Makes `num_steps` <= capacity steps in one call of the compiled program.

    Returns the new state, and metrics [capacity, R] of which the first num_steps are set. num_steps is traced, so one
    compiled program serves every number of steps. A run therefore gets the same results even if it is stopped and
    resumed.

    If capacity is 0, the program makes one step, without a loop, and the metrics are [1, R]. At SD 1.5's size such a
    program compiles on a CPU in three quarters of the time. Its results can differ from those of a loop by rounding.
    """
    if not capacity:
        state, metrics = train_step(state, params, data, hyper, model, schedule, config, mesh)
        return state, jax.tree.map(lambda now: now[None], metrics)

    def body(i: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
        state, history = carry
        state, metrics = train_step(state, params, data, hyper, model, schedule, config, mesh)
        return state, jax.tree.map(lambda past, now: past.at[i].set(now), history, metrics)

    empty = jnp.zeros((capacity, len(state.rows)))
    return jax.lax.fori_loop(0, num_steps, body, (state, Metrics(empty, empty)))


_jit = partial(jax.jit, static_argnames=("model", "schedule", "config", "mesh", "capacity"), donate_argnames="state")
train_steps = _jit(_train_steps)
# On an H100, XLA's search for the fastest kernels took 25 s and did not make a step in bfloat16 faster.
_untuned = _jit(_train_steps, compiler_options={"xla_gpu_autotune_level": 0})


def program(params: Any, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns `train_steps`, compiled in the way that suits the mesh's devices and the type of the weights `params`."""
    on_gpu = mesh.devices.flat[0].platform == "gpu"
    return _untuned if on_gpu and compute_dtype(params) == jnp.bfloat16 else train_steps
