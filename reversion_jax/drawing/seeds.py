"""Draws an image's random numbers from its seed: initial noise, the sampler's keys, and latents of a picture.

Seeds are uint32 [N], or a `Between` of two such arrays. The noise of a `Between` is interpolated.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from reversion_jax.diffusion.noise import Between, Keys, draw_noise, of_ends
from reversion_jax.models.presets import ModelConfig


def initial_noise(seeds: Sequence[int] | Keys, model: ModelConfig, size: tuple[int, int]) -> jax.Array:
    """Returns latent noise for each seed, [N, H/8, W/8, C]. The noise depends only on the seed and the size (H, W)."""
    shape = (*(side // model.vae.downscale for side in size), model.vae.latent_channels)
    draw = lambda seed: jax.random.normal(jax.random.key(seed), shape)
    return draw_noise(draw, seeds if isinstance(seeds, Between) else jnp.asarray(seeds, jnp.uint32))


def sampler_keys(seeds: Keys) -> Keys:
    """Returns random keys [N] for samplers that add noise in each step."""
    return _keys(seeds, 1)


def sample_posterior(seeds: Keys, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Samples latents for each seed from a picture's posterior.

    The mean, the standard deviation and the latents are [N, H/8, W/8, C].
    """
    return mean + std * draw_noise(lambda key: jax.random.normal(key, mean.shape[1:]), _keys(seeds, 2))


def _keys(seeds: Keys, stream: int) -> Keys:
    return of_ends(jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), stream)), seeds)
