"""Multi-head attention that never holds all of a long sequence's scores, forwards or backwards."""

import functools

import jax
import jax.numpy as jnp

_LONG = 1024  # positions from which scores are not kept: SD 1.5's first level at 256 px, the first two at 512 px
_BLOCK = 512  # queries at a time


def attention(query: jax.Array, key: jax.Array, value: jax.Array, heads: int, causal: bool = False) -> jax.Array:
    """Multi-head attention, [N, Lq, C], [N, Lk, C], [N, Lk, C] -> [N, Lq, C]; softmax in float32."""
    split = [x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value)]
    if query.shape[1] < _LONG or key.shape[1] < _LONG or causal:
        out = _short(*split, causal)
    elif _cudnn_applies(split[0]):
        out = jax.nn.dot_product_attention(*split, implementation="cudnn")
    else:
        out = _long(*split)
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
    """As `_short`, some queries at a time, whose scores the backward pass computes again."""
    n, _, heads, width = query.shape
    each = [jnp.moveaxis(x, 2, 1).reshape(n * heads, -1, width) for x in (query, key, value)]
    # XLA's CPU is 4 times faster on one head after another: plain matrix products, which fit its caches.
    out = jax.lax.platform_dependent(
        *each, cpu=lambda *each: jax.lax.map(lambda head: _one_head(*head), each), default=jax.vmap(_one_head)
    )
    return jnp.moveaxis(out.reshape(n, heads, -1, width), 1, 2)


def _one_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """[Lq, d], [Lk, d] twice -> [Lq, d]."""

    @jax.checkpoint
    def attend(block: jax.Array) -> jax.Array:
        scores = jnp.matmul(block * block.shape[-1] ** -0.5, key.T, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores, axis=-1).astype(value.dtype) @ value

    length, width = query.shape
    blocks = jnp.pad(query, ((0, -length % _BLOCK), (0, 0))).reshape(-1, _BLOCK, width)
    return jax.lax.map(attend, blocks).reshape(-1, width)[:length]


def _cudnn_applies(query: jax.Array) -> bool:
    """Whether cuDNN's flash attention takes such heads, self-attending."""
    length, width = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and width <= 128 and width % 8 == 0 and length % 64 == 0 and _has_ampere()


@functools.cache
def _has_ampere() -> bool:
    """An NVIDIA GPU of compute capability 8 or more, before which cuDNN has no flash attention."""
    device = jax.devices()[0]
    return "nvidia" in device.device_kind.lower() and float(getattr(device, "compute_capability", 0)) >= 8
