"""Unit Gaussian noise of images, each from a key of its own; also noise on the way between two keys'."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Between(NamedTuple):
    """A point on the way between two prompts or two seeds; also arrays [N] of such ends and weights."""

    first: Any
    last: Any
    weight: Any  # 0: the first, 1: the last


Keys = jax.Array | Between  # keys or seeds of N images, [N]


def ends(values: Sequence[Any], dtype: type | None = None) -> Between:
    """N values, some of which may be between two, as arrays [N] of both ends and of float32 weights."""
    pairs = [value if isinstance(value, Between) else Between(value, value, 0.0) for value in values]
    first, last = (np.array([pair[end] for pair in pairs], dtype) for end in (0, 1))
    return Between(first, last, np.array([pair.weight for pair in pairs], np.float32))


def of_ends(function: Callable[[jax.Array], jax.Array], keys: Keys) -> Keys:
    """`function` of keys [N], or of both ends' keys."""
    if isinstance(keys, Between):
        return keys._replace(first=function(keys.first), last=function(keys.last))
    return function(keys)


def draw_noise(normal: Callable[[jax.Array], jax.Array], keys: Keys) -> jax.Array:
    """Noise of N images, [N, ...]: normal(key) is one image's; between two keys it is `slerp`'s."""
    drawn = of_ends(jax.vmap(normal), keys)
    return slerp(*drawn) if isinstance(drawn, Between) else drawn


def slerp(first: jax.Array, last: jax.Array, weight: jax.Array) -> jax.Array:
    """Spherical interpolation (Shoemake, 1985) of N arrays, each a vector: two [N, ...], weight [N] -> [N, ...].

    Between Gaussian noises it stays as long as they are, where the straight line is shorter in its middle: a length
    that the model was not trained on (White, 2016, arXiv:1609.04468). Weights 0 and 1 return the ends exactly.
    """
    axes = tuple(range(1, first.ndim))
    dot = lambda a, b: jnp.sum(a * b, axes, keepdims=True)
    weight = weight.reshape(-1, *[1] * len(axes))
    cosine = dot(first, last) / jnp.sqrt(dot(first, first) * dot(last, last))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    # Where the two are (almost) parallel, the straight line is the arc.
    is_arc = jnp.sin(angle) > 1e-3
    share = lambda w: jnp.where(is_arc, jnp.sin(w * angle) / jnp.where(is_arc, jnp.sin(angle), 1), w)
    return share(1 - weight) * first + share(weight) * last
