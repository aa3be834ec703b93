"""Classifier-free guidance (Ho & Salimans, 2022, arXiv:2207.12598)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from reversion_jax.diffusion.samplers import Denoiser


def combine(unconditional: jax.Array, conditional: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Returns unconditional + scale (conditional - unconditional). A scale of 1 returns the conditional output."""
    return unconditional + scale * (conditional - unconditional)


def guided_denoiser(
    predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    unconditional: jax.Array,
    conditional: jax.Array,
    scale: float | jax.Array,
) -> Denoiser:
    """Returns a denoiser for the samplers: the model with classifier-free guidance.

    The denoiser calls the model once with a batch of 2 N samples: every sample with the unconditional and with the
    conditional context.

    predict: the model, (latents [N, H, W, C], timesteps [N], context [N, L, D]) -> output [N, H, W, C].
    unconditional: the text encoder's states [N, L, D] of the negative (or empty) prompts.
    conditional: the text encoder's states [N, L, D] of the prompts.
    """
    context = jnp.concatenate([unconditional, conditional])

    def denoise(latents: jax.Array, timesteps: jax.Array) -> jax.Array:
        noise = predict(jnp.concatenate([latents] * 2), jnp.concatenate([timesteps] * 2), context)
        without, given = jnp.split(noise, 2)
        return combine(without, given, scale)

    return denoise
