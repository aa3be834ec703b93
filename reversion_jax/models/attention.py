"""Multi-head attention. For long sequences, neither forward nor backward pass stores all attention scores at once."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

# From this sequence length on, the attention scores are not all stored at once. In SD 1.5, the UNet's first level at
# 256 px, and its first two levels at 512 px, are that long.
_LONG = 1024
_BLOCK = 512  # queries that are computed at a time
_ALIGNED = 64  # cuDNN needs sequence lengths that are multiples of this number


def attention(query: jax.Array, key: jax.Array, value: jax.Array, heads: int, causal: bool = False) -> jax.Array:
    """Computes multi-head attention: query [N, Lq, C], key and value [N, Lk, C] -> [N, Lq, C].

    The softmax is computed in float32. causal: each position attends only to itself and to earlier positions.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    short = query.shape[1] < _LONG or key.shape[1] < _LONG or causal
    forms: dict[str, Callable[..., jax.Array]] = {"cpu": _head_by_head, "default": _in_blocks}
    if short:
        forms = {"default": partial(_short, causal=causal)}
    if not causal and query.shape[1] >= _LONG and _cudnn_applies(q):
        # `platform_dependent` stores the values that any form needs for its backward pass, with zeros for the forms
        # that do not run. Without checkpoint, zeros of the size of the scores would be stored when cuDNN's form runs.
        forms = {platform: jax.checkpoint(form) for platform, form in forms.items()}
        forms["cuda"] = _flash
    found = jax.lax.platform_dependent(q, k, v, **forms) if len(forms) > 1 else forms["default"](q, k, v)
    return found.reshape(query.shape)


def _short(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
    """Computes attention with all scores [N, heads, Lq, Lk] at once.

    query [N, Lq, heads, d], key and value [N, Lk, heads, d] -> [N, Lq, heads, d].
    """
    # This gives the same result as jax.nn.dot_product_attention without cuDNN, in a third of the time on XLA's CPU
    # backend.
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32)
    if causal:
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(visible[None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, value)


def _in_blocks(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes the same as `_short`, but a block of queries at a time. The backward pass computes the scores again."""
    return _by_heads(jax.vmap(_one_head), query, key, value)


def _head_by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes the same as `_in_blocks`, but one head after another.

    This gives plain matrix products, which fit the caches of a CPU. On XLA's CPU backend, they are 4 times faster than
    `_in_blocks`.
    """
    return _by_heads(lambda *each: jax.lax.map(lambda head: _one_head(*head), each), query, key, value)


def _by_heads(over_heads: Callable[..., jax.Array], *split: jax.Array) -> jax.Array:
    """Reshapes arrays [N, L, heads, d] to [N * heads, L, d], applies `over_heads`, and reshapes the result back."""
    n, _, heads, width = split[0].shape
    out = over_heads(*(jnp.moveaxis(x, 2, 1).reshape(n * heads, -1, width) for x in split))
    return jnp.moveaxis(out.reshape(n, heads, -1, width), 1, 2)


def _flash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes the same as `_short` by cuDNN's flash attention, which stores no scores.

    Keys and values, such as those of a prompt, are padded to a length that cuDNN accepts.
    """
    keys = key.shape[1]
    if more := -keys % _ALIGNED:
        key, value = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (key, value))
    lengths = jnp.full(len(query), keys, jnp.int32) if more else None
    return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation="cudnn")


def _one_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes the attention of one head: query [Lq, d], key and value [Lk, d] -> [Lq, d]."""

    @jax.checkpoint
    def attend(block: jax.Array) -> jax.Array:
        scores = jnp.matmul(block * block.shape[-1] ** -0.5, key.T, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores, axis=-1).astype(value.dtype) @ value

    length, width = query.shape
    blocks = jnp.pad(query, ((0, -length % _BLOCK), (0, 0))).reshape(-1, _BLOCK, width)
    return jax.lax.map(attend, blocks).reshape(-1, width)[:length]


def _cudnn_applies(query: jax.Array) -> bool:
    """Returns whether cuDNN's flash attention accepts queries of this type and shape, and the GPU supports it."""
    width = query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and query.shape[1] % _ALIGNED == 0 and width <= 128 and width % 8 == 0 and _capability() >= 8


def _capability() -> float:
    """Returns the compute capability of the NVIDIA GPU that JAX uses, or 0 if JAX uses another device."""
    told = str(getattr(jax.devices()[0], "compute_capability", ""))
    return float(told) if told.replace(".", "").isdigit() else 0.0
