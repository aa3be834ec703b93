"""Draws unit Gaussian noise for images, each from its own random key, and interpolates between two noises."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Between(NamedTuple):
    """A point between two prompts or two seeds, for which an interpolated picture is drawn.

    A `Between` can also hold N such points; each field is then an array [N].
    """

    first: Any
    last: Any
    weight: Any  # in [0, 1]: 0 is `first`, 1 is `last`


Keys = jax.Array | Between  # keys or seeds of N images, [N]


def ends(values: Sequence[Any], dtype: type | None = None) -> Between:
    """Packs N values into one `Between` of arrays [N], with float32 weights.

    Each value is a plain value or a `Between`. A plain value becomes both `first` and `last`, with weight 0.
    """
    pairs = [value if isinstance(value, Between) else Between(value, value, 0.0) for value in values]
    first, last = (np.array([pair[end] for pair in pairs], dtype) for end in (0, 1))
    return Between(first, last, np.array([pair.weight for pair in pairs], np.float32))


def of_ends(function: Callable[[jax.Array], jax.Array], keys: Keys) -> Keys:
    """Applies `function` to keys [N], or to the keys `first` and `last` of a `Between`."""
    if isinstance(keys, Between):
        return keys._replace(first=function(keys.first), last=function(keys.last))
    return function(keys)


def draw_noise(normal: Callable[[jax.Array], jax.Array], keys: Keys) -> jax.Array:
    """Draws the noise [N, ...] of N images; `normal(key)` draws the noise of one image.

    The noise of a `Between` is interpolated by `slerp` between the noises of `first` and `last`.
    """
    drawn = of_ends(jax.vmap(normal), keys)
    return slerp(*drawn) if isinstance(drawn, Between) else drawn


def slerp(first: jax.Array, last: jax.Array, weight: jax.Array) -> jax.Array:
    """Interpolates spherically (Shoemake, 1985) within N pairs: two arrays [N, ...] and weights [N] -> [N, ...].

    Each array of a pair is treated as one vector. Spherical interpolation keeps the length of Gaussian noise. Linear
    interpolation would give shorter vectors, which the model was not trained on (White, 2016, arXiv:1609.04468).
    Weights 0 and 1 return `first` and `last` exactly.
    """
    axes = tuple(range(1, first.ndim))
    dot = lambda a, b: jnp.sum(a * b, axes, keepdims=True)
    weight = weight.reshape(-1, *[1] * len(axes))
    cosine = dot(first, last) / jnp.sqrt(dot(first, first) * dot(last, last))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    # If the two vectors are almost parallel, the formula divides by almost 0; linear interpolation then gives the same.
    is_arc = jnp.sin(angle) > 1e-3
    share = lambda w: jnp.where(is_arc, jnp.sin(w * angle) / jnp.where(is_arc, jnp.sin(angle), 1), w)
    return share(1 - weight) * first + share(weight) * last
