"""Classifier-free guidance (Ho & Salimans, 2022, arXiv:2207.12598)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reversion_jax.diffusion.samplers import Denoiser


def combine(unconditional: jax.Array, conditional: jax.Array, scale: float | jax.Array) -> jax.Array:
    """unconditional + scale (conditional - unconditional); scale 1 is plain conditioning."""
    return unconditional + scale * (conditional - unconditional)


def guided_denoiser(
    predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    unconditional: jax.Array,
    conditions: Sequence[jax.Array],
    scale: float | jax.Array,
) -> Denoiser:
    """A sampler's denoiser out of a model, guided by the mean of what it predicts under K conditions, in one batch.

    predict: (latents [N, H, W, C], timesteps [N], context [N, L, D]) -> noise [N, H, W, C].
    unconditional, each of conditions: text states [N, L, D]; the first are of the negative (or empty) prompt.
    """
    context = jnp.concatenate([unconditional, *conditions])
    count = 1 + len(conditions)

    def denoise(latents: jax.Array, timesteps: jax.Array) -> jax.Array:
        noise = predict(jnp.concatenate([latents] * count), jnp.concatenate([timesteps] * count), context)
        unconditional, *conditional = jnp.split(noise, count)
        return combine(unconditional, sum(conditional) / len(conditional), scale)

    return denoise


def alternating(denoisers: Sequence[Denoiser], levels: np.ndarray) -> Denoiser:
    """The denoisers in turn, over a sampler's timesteps `levels`, noisiest first; the first denoiser has the first."""

    def denoise(latents: jax.Array, timesteps: jax.Array) -> jax.Array:
        turn = jnp.sum(levels > timesteps[0]) % len(denoisers)
        return jax.lax.switch(turn, denoisers, latents, timesteps)

    return denoise
