"""Encodes prompts for drawing: the text encoder's states of prompts with learned words, and points between them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reversion_jax.diffusion.noise import Between
from reversion_jax.inversion import networks
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.weights.folder import StableDiffusion


@partial(jax.jit, static_argnames="model")
def encode_text(params: Any, model: ModelConfig, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the text encoder's states [N, L, D] for token ids [N, L] and learned rows [P, D]."""
    return networks.encode_text(params, model, ids, jnp.broadcast_to(rows, (len(ids), *rows.shape)))


def text_states(
    sd: StableDiffusion, tokenizer: Tokenizer, texts: Sequence[str], rows: jax.Array, batch_size: int
) -> jax.Array:
    """Returns the text encoder's states [N, L, D] of N texts. Raises ValueError if a placeholder has no row."""
    ids = tokenizer(texts)
    if ids.max() >= tokenizer.vocab_size + len(rows):
        raise ValueError(f"the prompts' placeholders need more than the {len(rows)} rows given")
    size = min(batch_size, len(ids))
    batches = [ids[batch(start, size, len(ids))] for start in range(0, len(ids), size)]
    with jax.default_matmul_precision(sd.products):
        return jnp.concatenate([encode_text(sd.params, sd.config, own, rows) for own in batches])[: len(ids)]


def between(states: jax.Array, points: Between) -> jax.Array:
    """Returns interpolated text states [n, L, D]. The ends of `points` are indices [n] into `states` [T, L, D]."""
    first = states[points.first]
    if not points.weight.any():
        return first
    weight = jnp.asarray(points.weight[:, None, None], states.dtype)
    return (1 - weight) * first + weight * states[points.last]


def batch(start: int, size: int, count: int) -> np.ndarray:
    """Returns the indices of a batch's `size` items of `count`. After the last item, they continue with the first."""
    return np.arange(start, start + size) % count
