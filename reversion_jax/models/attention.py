"""Multi-head attention that never holds all of a long sequence's scores, forwards or backwards."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

_LONG = 1024  # positions from which scores are not kept: SD 1.5's first level at 256 px, the first two at 512 px
_BLOCK = 512  # queries at a time


def attention(query: jax.Array, key: jax.Array, value: jax.Array, heads: int, causal: bool = False) -> jax.Array:
    """Multi-head attention, [N, Lq, C], [N, Lk, C], [N, Lk, C] -> [N, Lq, C]; softmax in float32."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    short = query.shape[1] < _LONG or key.shape[1] < _LONG or causal
    out = _short(q, k, v, causal) if short else _long(q, k, v)
    return out.reshape(query.shape)


def _short(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
    """[N, Lq, heads, d], [N, Lk, heads, d] twice -> [N, Lq, heads, d], by way of scores [N, heads, Lq, Lk]."""
    # As jax.nn.dot_product_attention computes it off CUDA; in this form XLA's CPU takes a third of the time.
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32)
    if causal:
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(visible[None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, value)


def _long(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As `_short`, some queries at a time, whose scores the backward pass computes again; or cuDNN's flash form."""

    def by_heads(over_heads: Callable[..., jax.Array], *split: jax.Array) -> jax.Array:
        n, _, heads, width = split[0].shape
        out = over_heads(*(jnp.moveaxis(x, 2, 1).reshape(n * heads, -1, width) for x in split))
        return jnp.moveaxis(out.reshape(n, heads, -1, width), 1, 2)

    # XLA's CPU is 4 times faster on one head after another: plain matrix products, which fit its caches.
    in_turn = lambda *each: jax.lax.map(lambda head: _one_head(*head), each)
    forms = {"cpu": partial(by_heads, in_turn), "default": partial(by_heads, jax.vmap(_one_head))}
    if _cudnn_applies(query, key):
        forms["cuda"] = partial(jax.nn.dot_product_attention, implementation="cudnn")
    return jax.lax.platform_dependent(query, key, value, **forms)


def _one_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """[Lq, d], [Lk, d] twice -> [Lq, d]."""

    @jax.checkpoint
    def attend(block: jax.Array) -> jax.Array:
        scores = jnp.matmul(block * block.shape[-1] ** -0.5, key.T, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores, axis=-1).astype(value.dtype) @ value

    length, width = query.shape
    blocks = jnp.pad(query, ((0, -length % _BLOCK), (0, 0))).reshape(-1, _BLOCK, width)
    return jax.lax.map(attend, blocks).reshape(-1, width)[:length]


def _cudnn_applies(query: jax.Array, key: jax.Array) -> bool:
    """Whether cuDNN's flash attention takes such heads, and the GPU, if any, is of compute capability 8 or more."""
    width, aligned = query.shape[3], query.shape[1] % 64 == key.shape[1] % 64 == 0
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    new_enough = float(getattr(jax.devices()[0], "compute_capability", 0)) >= 8
    return half and aligned and width <= 128 and width % 8 == 0 and new_enough
