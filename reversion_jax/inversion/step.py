"""The training step: the one place where models, schedule and losses meet. Only the rows are differentiated."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import losses, networks
from reversion_jax.inversion.arrays import SHARED, Data
from reversion_jax.inversion.draws import Hyperparameters, Sample, StepConfig, draw_batch
from reversion_jax.inversion.suppressor import gaussian_blur
from reversion_jax.models.clip import token_table
from reversion_jax.models.presets import ModelConfig
from reversion_jax.runtime.parallel import over_samples, whole


class State(NamedTuple):
    """What training changes."""

    rows: jax.Array  # [R, P, D]
    moments: Any  # optax state of the rows
    step: jax.Array  # int32 scalar


class Metrics(NamedTuple):
    """Losses of a step, [R] each, unweighted."""

    denoising: jax.Array
    control: jax.Array


def _optimiser(config: StepConfig, weight_decay: jax.Array) -> optax.GradientTransformation:
    """AdamW without its rate, for rows [R, P, D]; weight_decay [R, 1, 1], or [] for all runs."""
    adam = optax.scale_by_adam(config.adam_b1, config.adam_b2, config.adam_eps)
    return optax.chain(adam, optax.add_decayed_weights(weight_decay))


def init_state(initial_rows: jax.Array, config: StepConfig) -> State:
    """The state before the first step, from rows [R, P, D]."""
    moments = _optimiser(config, jnp.zeros(())).init(initial_rows)
    # A copy, because `train_steps` reuses the state's buffers.
    return State(jnp.array(initial_rows, jnp.float32), moments, jnp.zeros((), jnp.int32))


def _token_states(table: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Frozen rows of token ids, pooled over a micro-batch: [R, N, k] -> [R, N * k, D] and their mask."""
    ids = ids.reshape(ids.shape[0], -1)
    return jnp.take(table, jnp.maximum(ids, 0), axis=0), ids >= 0


def _predict(
    params: Any,
    trainable: jax.Array,
    ids: jax.Array,
    noisy: jax.Array,
    timesteps: jax.Array,
    *,
    model: ModelConfig,
    remat: bool,
) -> jax.Array:
    """The networks: rows [N, P, D], a sample's own, ids [N, L], noisy latents [N, H, W, C] -> the UNet's output."""
    states = networks.encode_text(params, model, ids, trainable)
    return networks.predict(params, model, noisy, timesteps, states, remat)


def micro_batch_loss(
    trainable: jax.Array,
    batch: Sample,
    params: Any,
    hyper: Hyperparameters,
    model: ModelConfig,
    schedule: Schedule,
    config: StepConfig,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Metrics]:
    """Eq. 10 summed over runs, which do not share rows, so that each gets the gradient of its own loss.

    The networks run on the mesh's devices, each on its share of all runs' samples; the rest is small, and on each.
    """
    runs, size = batch.ids.shape[:2]
    flat = lambda x: x.reshape(runs * size, *x.shape[2:])
    noisy = schedule.add_noise(flat(batch.latents), flat(batch.noise), flat(batch.timestep))
    if config.blur_noisy_latents:
        blurred = jax.vmap(gaussian_blur)(noisy.reshape(batch.latents.shape), hyper.latent_sigma)
        noisy = flat(blurred)
    predict: Callable[..., jax.Array] = partial(_predict, model=model, remat=config.remat)
    if mesh is not None:
        predict = over_samples(predict, mesh)
    # One copy of the rows per sample; summing their gradients is the only communication between devices.
    of_samples = flat(jnp.broadcast_to(trainable[:, None], (runs, size, *trainable.shape[1:])))
    predicted = predict(params, of_samples, flat(batch.ids), noisy, flat(batch.timestep))
    target = schedule.training_target(flat(batch.latents), flat(batch.noise), flat(batch.timestep))
    denoising = losses.denoising(predicted, target).reshape(runs, size).mean(axis=1)

    table = token_table(params)
    control = losses.control(
        trainable[:, : config.rows_per_token],
        *_token_states(table, batch.verbs),
        *_token_states(table, batch.prepositions),
        *_token_states(table, batch.negatives),
        hyper.verb_weight,
        hyper.temperature,
    )
    total = hyper.denoise_weight * denoising + hyper.control_weight * control
    return jnp.sum(total), Metrics(denoising, control)


def _in_groups(function: Callable, size: int, rows: jax.Array, data: Data, hyper: Hyperparameters) -> Any:
    """`function(rows, data, hyper)` of R runs, computed for `size` of them after another; what it returns is [R, ...].

    The last group is filled up with the first runs, whose second results are dropped.
    """
    runs = len(rows)
    if not 0 < size < runs:
        return function(rows, data, hyper)
    members = np.resize(np.arange(runs), (-(-runs // size), size))
    shared = {name: getattr(data, name) for name in SHARED}
    without: dict[str, Any] = dict.fromkeys(SHARED)
    of_runs = (rows, data._replace(**without), hyper)
    grouped = jax.tree.map(lambda x: x[members], of_runs)
    results = jax.lax.map(lambda group: function(group[0], group[1]._replace(**shared), group[2]), grouped)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:runs], results)


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
    """One AdamW step of every run, over `accumulation` micro-batches whose losses are averaged."""

    def gradients(micro: jax.Array, rows: jax.Array, data: Data, hyper: Hyperparameters) -> tuple[jax.Array, Metrics]:
        batch = draw_batch(state.step, micro, data, hyper, schedule, config)
        if mesh is not None:
            # Replicated: sharding this small computation would only add collectives.
            batch = whole(batch, mesh)
        loss = partial(micro_batch_loss, model=model, schedule=schedule, config=config, mesh=mesh)
        return jax.grad(loss, has_aux=True)(rows, batch, params, hyper)

    def micro_step(totals: tuple[jax.Array, Metrics], micro: jax.Array) -> tuple[tuple[jax.Array, Metrics], None]:
        of_runs = _in_groups(partial(gradients, micro), config.runs_at_once, state.rows, data, hyper)
        return jax.tree.map(jnp.add, totals, of_runs), None

    nothing = jnp.zeros(len(state.rows))
    totals = (jnp.zeros_like(state.rows), Metrics(nothing, nothing))
    if config.accumulation == 1:
        totals, _ = micro_step(totals, jnp.zeros((), jnp.int32))
    else:
        totals, _ = jax.lax.scan(micro_step, totals, jnp.arange(config.accumulation))
    grads, metrics = jax.tree.map(lambda x: x / config.accumulation, totals)

    optimiser = _optimiser(config, hyper.weight_decay[:, None, None])
    updates, moments = optimiser.update(grads, state.moments, state.rows)
    # Rows of <R-inv> that no prompt holds would still decay: they stay as they are.
    is_relation = jnp.arange(state.rows.shape[1]) < config.rows_per_token
    moves = is_relation[None, :] | (hyper.inverse_share > 0)[:, None]
    updates = jnp.where(moves[..., None], -hyper.learning_rate[:, None, None] * updates, 0.0)
    return State(state.rows + updates, moments, state.step + 1), metrics


@partial(jax.jit, static_argnames=("model", "schedule", "config", "mesh", "capacity"), donate_argnames="state")
def train_steps(
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
    """`num_steps` <= capacity steps in one dispatch; metrics [capacity, R], of which the first num_steps are set.

    The number is traced: one program serves every count, so where a run is cut changes nothing in its numbers.
    """

    def body(i: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
        state, history = carry
        state, metrics = train_step(state, params, data, hyper, model, schedule, config, mesh)
        return state, jax.tree.map(lambda past, now: past.at[i].set(now), history, metrics)

    empty = jnp.zeros((capacity, len(state.rows)))
    return jax.lax.fori_loop(0, num_steps, body, (state, Metrics(empty, empty)))
