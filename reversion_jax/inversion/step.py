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
from reversion_jax.inversion.arrays import Data
from reversion_jax.inversion.draws import Hyperparameters, Sample, StepConfig, draw_batch
from reversion_jax.inversion.suppressor import gaussian_blur
from reversion_jax.models.clip import token_table
from reversion_jax.models.presets import ModelConfig, compute_dtype
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
    """The networks: rows [K, P, D], a sample's own, ids [K, L], noisy latents [K, H, W, C] -> the UNet's output."""
    states = networks.encode_text(params, model, ids, trainable)
    return networks.predict(params, model, noisy, timesteps, states, remat)


class _Seen(NamedTuple):
    """What the networks see of K samples, of one run or of several, and what they should answer."""

    rows: jax.Array  # [K, P, D], those of each sample's run
    ids: jax.Array  # [K, L]
    noisy: jax.Array  # [K, H, W, C]
    timestep: jax.Array  # [K]
    target: jax.Array  # [K, H, W, C]


def _each_prompt(batch: Sample, mesh: Mesh | None) -> Sample:
    """Samples [R, N, ...] with two prompts as [R, 2N, ...] with one: the direct prompts, then the inverse ones.

    Both prompts of a sample have its latents, noise and timestep, and the same weight in the mean loss: Eq. 2 is an
    expectation over prompts, of which the text expansion (§3.2) makes as many inverse as direct ones.
    """
    if batch.inverse_ids is None:
        return batch
    inverse = batch._replace(ids=batch.inverse_ids)
    both = jax.tree.map(lambda direct, other: jnp.concatenate([direct, other], axis=1), batch, inverse)
    return both if mesh is None else whole(both, mesh)  # otherwise devices would exchange samples


def _see(rows: jax.Array, batch: Sample, hyper: Hyperparameters, schedule: Schedule, config: StepConfig) -> _Seen:
    """The samples [R, N, ...] of all runs, as the R * N that the networks see."""
    runs, samples = batch.ids.shape[:2]
    flat = lambda x: x.reshape(runs * samples, *x.shape[2:])
    latents, noise, timestep = flat(batch.latents), flat(batch.noise), flat(batch.timestep)
    noisy = schedule.add_noise(latents, noise, timestep)
    if config.blur_noisy_latents:
        noisy = flat(jax.vmap(gaussian_blur)(noisy.reshape(batch.latents.shape), hyper.latent_sigma))
    of_samples = flat(jnp.broadcast_to(rows[:, None], (runs, samples, *rows.shape[1:])))
    return _Seen(of_samples, flat(batch.ids), noisy, timestep, schedule.training_target(latents, noise, timestep))


def _denoising(
    seen: _Seen, params: Any, model: ModelConfig, config: StepConfig, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """Each sample's loss (Eq. 1, 2, 8) and its gradient by the sample's own copy of the rows: [K], [K, P, D]."""
    predict: Callable[..., jax.Array] = partial(_predict, model=model, remat=config.remat)
    if mesh is not None:
        predict = over_samples(predict, mesh)

    # The loss is a mean, so its gradient by one number is small: in float16 it would vanish.
    scale = float(np.prod(seen.target.shape[1:])) / 16 if compute_dtype(params) == jnp.float16 else 1.0

    def loss(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = losses.denoising(predict(params, rows, seen.ids, seen.noisy, seen.timestep), seen.target)
        return scale * jnp.sum(each), each

    gradients, each = jax.grad(loss, has_aux=True)(seen.rows)
    return each, gradients / scale


def _in_pieces(function: Callable[[_Seen], Any], seen: _Seen, size: int) -> Any:
    """`function` of all samples, computed for `size` of them after another (0: at once).

    The last piece is filled up with the first samples, whose second results are dropped.
    """
    samples = len(seen.ids)
    if not 0 < size < samples:
        return function(seen)
    members = np.resize(np.arange(samples), (-(-samples // size), size))
    results = jax.lax.map(function, jax.tree.map(lambda x: x[members], seen))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:samples], results)


def _control(
    rows: jax.Array, batch: Sample, table: jax.Array, hyper: Hyperparameters, config: StepConfig
) -> tuple[jax.Array, jax.Array]:
    """The control loss (Eq. 4-7) summed over runs, and of each: the mean over the groups that share their words."""

    def words(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Frozen rows of token ids, pooled over each group: [R, N, k] -> [R, N / G, G * k, D], and their mask."""
        pooled = ids.reshape(len(ids), config.accumulation, -1)
        return jnp.take(table, jnp.maximum(pooled, 0), axis=0), pooled >= 0

    of_groups = losses.control(
        rows[:, None, : config.rows_per_token],
        *words(batch.verbs),
        *words(batch.prepositions),
        *words(batch.negatives),
        hyper.verb_weight[:, None],
        hyper.temperature[:, None],
    )
    each = of_groups.mean(axis=1)
    return jnp.sum(each), each


def gradients(
    rows: jax.Array,
    batch: Sample,
    params: Any,
    hyper: Hyperparameters,
    model: ModelConfig,
    schedule: Schedule,
    config: StepConfig,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Metrics]:
    """The gradient [R, P, D] of Eq. 10 for a step's samples [R, N, ...], and its losses. Runs share nothing.

    The networks run on the mesh's devices, each on its share of `samples_at_once`; the rest is small, and on each. How
    many go through the networks at once decides how much memory a step needs, and changes results by rounding alone.
    """
    shown = _each_prompt(batch, mesh)
    runs, samples = shown.ids.shape[:2]
    seen = _see(rows, shown, hyper, schedule, config)
    denoise = partial(_denoising, params=params, model=model, config=config, mesh=mesh)
    each, towards = _in_pieces(denoise, seen, config.samples_at_once)
    # Summing the samples' gradients is the only communication between devices.
    towards = towards.reshape(runs, samples, *rows.shape[1:]).mean(axis=1)
    steered, control = jax.grad(_control, has_aux=True)(rows, batch, token_table(params), hyper, config)
    of_run = lambda weight: weight[:, None, None]
    total = of_run(hyper.denoise_weight) * towards + of_run(hyper.control_weight) * steered
    return total, Metrics(each.reshape(runs, samples).mean(axis=1), control)


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
    """One AdamW step of every run."""
    batch = draw_batch(state.step, data, hyper, schedule, config)
    if mesh is not None:
        # Replicated: sharding this small computation would only add collectives.
        batch = whole(batch, mesh)
    grads, metrics = gradients(state.rows, batch, params, hyper, model, schedule, config, mesh)
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
