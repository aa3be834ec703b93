"""Samplers: (denoiser, latents, schedule, steps) -> latents. They know nothing of models or prompts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from reversion_jax.diffusion.schedule import Schedule


def ddim(
    denoiser: Callable[[jax.Array, jax.Array], jax.Array], latents: jax.Array, schedule: Schedule, steps: int
) -> jax.Array:
    """Deterministic DDIM (Song et al., 2020, arXiv:2010.02502, eq. 12 with eta = 0).

    denoiser: (latents [N, H, W, C], timesteps [N]) -> predicted noise [N, H, W, C].
    latents: unit Gaussian noise [N, H, W, C] -> clean latents of the same shape.
    """

    def step(x, level):
        timestep, alpha, next_alpha = level
        noise = denoiser(x, jnp.full(x.shape[:1], timestep)).astype(x.dtype)
        clean = (x - jnp.sqrt(1 - alpha) * noise) / jnp.sqrt(alpha)
        if schedule.clip_sample:
            clean = jnp.clip(clean, -1, 1)
        return jnp.sqrt(next_alpha) * clean + jnp.sqrt(1 - next_alpha) * noise, None

    return jax.lax.scan(step, latents, jax.tree.map(jnp.asarray, schedule.levels(steps)))[0]
