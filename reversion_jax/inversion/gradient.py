"""The gradient of the loss: applies the networks, the noise schedule and the losses. Only rows are differentiated."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import losses, networks
from reversion_jax.inversion.draws import Hyperparameters, Sample, StepConfig
from reversion_jax.inversion.suppressor import gaussian_blur
from reversion_jax.models.clip import token_table
from reversion_jax.models.presets import ModelConfig, compute_dtype
from reversion_jax.runtime.parallel import over_samples, whole


class Metrics(NamedTuple):
    """The losses of one step, without their weights, [R] each."""

    denoising: jax.Array
    control: jax.Array


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
    """Returns the UNet's output [K, H, W, C] for K samples.

    trainable: the rows of each sample, [K, P, D]. ids: token ids [K, L]. noisy: noisy latents [K, H, W, C]. timesteps:
    the timestep of each sample, [K].
    """
    states = networks.encode_text(params, model, ids, trainable)
    return networks.predict(params, model, noisy, timesteps, states, remat)


class _Inputs(NamedTuple):
    """The inputs of the networks for K samples of one or several runs, and the targets of their predictions."""

    rows: jax.Array  # [K, P, D] the rows of each sample's run
    ids: jax.Array  # [K, L] token ids of the prompts
    noisy: jax.Array  # [K, H, W, C] noisy latents
    timestep: jax.Array  # [K]
    target: jax.Array  # [K, H, W, C] the values that the UNet should predict


def _one_prompt_each(batch: Sample, mesh: Mesh | None) -> Sample:
    """Turns samples [R, N, ...] with two prompts into samples [R, 2N, ...] with one prompt, the direct prompts first.

    Returns `batch` unchanged if its samples have one prompt already. Otherwise the two prompts of a sample get the
    sample's latents, noise and timestep, and the same weight in the mean loss. The weights are the same because Eq. 2
    is an expectation over prompts, and the text expansion (§3.2) adds one inverse prompt to every direct prompt.
    """
    if batch.inverse_ids is None:
        return batch
    inverse = batch._replace(ids=batch.inverse_ids)
    both = jax.tree.map(lambda direct, other: jnp.concatenate([direct, other], axis=1), batch, inverse)
    return both if mesh is None else whole(both, mesh)  # each device has all samples, so devices do not exchange any


def _inputs(rows: jax.Array, batch: Sample, hyper: Hyperparameters, schedule: Schedule, config: StepConfig) -> _Inputs:
    """Computes the inputs and targets of the networks for the samples [R, N, ...] of all runs; K = R * N."""
    runs, samples = batch.ids.shape[:2]
    flat = lambda x: x.reshape(runs * samples, *x.shape[2:])
    latents, noise, timestep = flat(batch.latents), flat(batch.noise), flat(batch.timestep)
    noisy = schedule.add_noise(latents, noise, timestep)
    if config.blur_noisy_latents:
        noisy = flat(jax.vmap(gaussian_blur)(noisy.reshape(batch.latents.shape), hyper.latent_sigma))
    of_samples = flat(jnp.broadcast_to(rows[:, None], (runs, samples, *rows.shape[1:])))
    return _Inputs(of_samples, flat(batch.ids), noisy, timestep, schedule.training_target(latents, noise, timestep))


def _denoising(
    inputs: _Inputs, params: Any, model: ModelConfig, config: StepConfig, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """Returns the denoising loss of each sample (Eq. 1, 2, 8), [K], and its gradient, [K, P, D].

    The gradient of a sample is taken with respect to its own copy of the rows.
    """
    predict: Callable[..., jax.Array] = partial(_predict, model=model, remat=config.remat)
    if mesh is not None:
        predict = over_samples(predict, mesh)

    # The loss is a mean over many numbers, so its gradient with respect to each number is small, and would underflow in
    # float16. Therefore the loss is scaled up, and the gradient is scaled down again.
    scale = float(np.prod(inputs.target.shape[1:])) / 16 if compute_dtype(params) == jnp.float16 else 1.0

    def loss(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = losses.denoising(predict(params, rows, inputs.ids, inputs.noisy, inputs.timestep), inputs.target)
        return scale * jnp.sum(each), each

    gradients, each = jax.grad(loss, has_aux=True)(inputs.rows)
    return each, gradients / scale


def _in_pieces(function: Callable[[_Inputs], Any], inputs: _Inputs, size: int) -> Any:
    """Applies `function` to `size` samples at a time and joins the results; a size of 0 means all samples at once.

    If fewer than `size` samples are left at the end, the first samples are computed again to fill up; their second
    results are dropped.
    """
    samples = len(inputs.ids)
    if not 0 < size < samples:
        return function(inputs)
    members = np.resize(np.arange(samples), (-(-samples // size), size))
    results = jax.lax.map(function, jax.tree.map(lambda x: x[members], inputs))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:samples], results)


def _control(
    rows: jax.Array, batch: Sample, table: jax.Array, hyper: Hyperparameters, config: StepConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns the control loss (Eq. 4-7): its sum over runs, and its value for each run, [R].

    The value for a run is the mean over the run's groups of samples. table: the frozen token embeddings [V, D].
    """

    def words(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the embeddings of token ids, pooled by group, [R, N, k] -> [R, N / G, G * k, D], and their mask."""
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
    """Returns the gradient [R, P, D] of the loss (Eq. 10) for the samples [R, N, ...] of a step, and the losses.

    Runs do not influence each other. The devices of the mesh divide the samples that go through the networks; every
    device computes everything else, which is little work. `samples_at_once` limits the number of samples that go
    through the networks together, and so the memory that a step needs. The limit changes results only by rounding.
    """
    shown = _one_prompt_each(batch, mesh)
    runs, samples = shown.ids.shape[:2]
    inputs = _inputs(rows, shown, hyper, schedule, config)
    denoise = partial(_denoising, params=params, model=model, config=config, mesh=mesh)
    each, towards = _in_pieces(denoise, inputs, config.samples_at_once)
    # Summing the samples' gradients is the only communication between devices.
    towards = towards.reshape(runs, samples, *rows.shape[1:]).mean(axis=1)
    steered, control = jax.grad(_control, has_aux=True)(rows, batch, token_table(params), hyper, config)
    of_run = lambda weight: weight[:, None, None]
    total = of_run(hyper.denoise_weight) * towards + of_run(hyper.control_weight) * steered
    return total, Metrics(each.reshape(runs, samples).mean(axis=1), control)
