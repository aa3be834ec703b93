"""Relation-focal importance sampling (ReVersion): draws noisier timesteps, which decide the relation, more often."""

import jax
import jax.numpy as jnp
import numpy as np


def probabilities(num_timesteps: int, alpha: jax.Array | float) -> jax.Array:
    """Returns the probabilities f(t) ∝ 1 − α cos(πt/T) of the timesteps t = 0 … T−1.

    alpha: numbers [...] in [−1, 1]; 0 gives the uniform distribution. Returns probabilities [..., T], which sum to 1
    over the last axis.
    """
    alpha = jnp.asarray(alpha, jnp.float32)[..., None]
    cosines = np.cos(np.pi * np.arange(num_timesteps) / num_timesteps)
    # The sum is T − α, because the cosines sum to 1: the first cosine is 1, and the other cosines cancel in pairs.
    return (1 - alpha * _row(cosines, alpha)) / (num_timesteps - alpha)


def sample(key: jax.Array, shape: tuple[int, ...], num_timesteps: int, alpha: jax.Array | float) -> jax.Array:
    """Draws int32 timesteps of the given shape from f(t) (see `probabilities`).

    alpha: a scalar, or an array with the leading axes of `shape`. Each timestep comes from one uniform number by the
    inverse of the cumulative distribution, so it does not depend on the other timesteps.
    """
    alpha = jnp.asarray(alpha, jnp.float32)
    alpha = alpha.reshape(alpha.shape + (1,) * (len(shape) - alpha.ndim + 1))
    # These are the sums Σ_{s<=t} cos(π s / T) in closed form (Dirichlet kernel). The last timestep gets the remaining
    # probability.
    steps = np.arange(num_timesteps - 1)
    cosine_sums = 0.5 + np.sin(np.pi * (steps + 0.5) / num_timesteps) / (2 * np.sin(np.pi / (2 * num_timesteps)))
    cdf = (_row(steps + 1, alpha) - alpha * _row(cosine_sums, alpha)) / (num_timesteps - alpha)
    uniform = jax.random.uniform(key, shape)[..., None]
    return jnp.sum(uniform >= cdf, axis=-1, dtype=jnp.int32)


def _row(values: np.ndarray, like: jax.Array) -> jax.Array:
    """Returns values [n] as float32 [1, ..., 1, n], with as many axes as `like` has."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (like.ndim - 1) + (-1,))
