"""Relation-focal importance sampling (ReVersion): noisier timesteps, which decide relations, are likelier."""

import jax
import jax.numpy as jnp
import numpy as np


def probabilities(num_timesteps: int, alpha: jax.Array | float) -> jax.Array:
    """f(t) ∝ 1 − α cos(πt/T), t = 0 … T−1, summing to 1: alpha [...] in [−1, 1] → [..., T]; 0 is uniform."""
    alpha = jnp.asarray(alpha, jnp.float32)[..., None]
    cosines = np.cos(np.pi * np.arange(num_timesteps) / num_timesteps)
    # The cosines add up to 1: all but the first cancel in pairs.
    return (1 - alpha * _row(cosines, alpha)) / (num_timesteps - alpha)


def sample(key: jax.Array, shape: tuple[int, ...], num_timesteps: int, alpha: jax.Array | float) -> jax.Array:
    """Timesteps, int32 of the given shape, drawn from f(t); alpha has leading axes of that shape, or none.

    Inverse CDF of one uniform number a sample, so that a sample depends on its own number alone.
    """
    alpha = jnp.asarray(alpha, jnp.float32)
    alpha = alpha.reshape(alpha.shape + (1,) * (len(shape) - alpha.ndim + 1))
    # Σ_{s<=t} cos(π s / T) in closed form (Dirichlet kernel); the last step takes what is left.
    steps = np.arange(num_timesteps - 1)
    cosine_sums = 0.5 + np.sin(np.pi * (steps + 0.5) / num_timesteps) / (2 * np.sin(np.pi / (2 * num_timesteps)))
    cdf = (_row(steps + 1, alpha) - alpha * _row(cosine_sums, alpha)) / (num_timesteps - alpha)
    uniform = jax.random.uniform(key, shape)[..., None]
    return jnp.sum(uniform >= cdf, axis=-1, dtype=jnp.int32)


def _row(values: np.ndarray, like: jax.Array) -> jax.Array:
    """Values as float32 along the last axis, in front of which are axes of length 1: as many axes as `like` has."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (like.ndim - 1) + (-1,))
