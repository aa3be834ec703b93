"""Classifier-free guidance (Ho & Salimans, 2022, arXiv:2207.12598)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from reversion_jax.diffusion.samplers import Denoiser


def combine(unconditional: jax.Array, conditional: jax.Array, scale: float | jax.Array) -> jax.Array:
    """unconditional + scale (conditional - unconditional); scale 1 is plain conditioning."""
    return unconditional + scale * (conditional - unconditional)


def guided_denoiser(
    predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    unconditional: jax.Array,
    conditional: jax.Array,
    scale: float | jax.Array,
) -> Denoiser:
    """A sampler's denoiser out of a model, guided by one call on a doubled batch.

    predict: (latents [N, H, W, C], timesteps [N], context [N, L, D]) -> noise [N, H, W, C].
    unconditional, conditional: text states [N, L, D]; the first are of the negative (or empty) prompt.
    """
    context = jnp.concatenate([unconditional, conditional])

    def denoise(latents: jax.Array, timesteps: jax.Array) -> jax.Array:
        noise = predict(jnp.concatenate([latents] * 2), jnp.concatenate([timesteps] * 2), context)
        without, given = jnp.split(noise, 2)
        return combine(without, given, scale)

    return denoise
