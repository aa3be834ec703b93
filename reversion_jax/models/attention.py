"""Multi-head attention that never holds all of a long sequence's scores, forwards or backwards."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

_LONG = 1024  # positions from which scores are not kept: SD 1.5's first level at 256 px, the first two at 512 px
_BLOCK = 512  # queries at a time
_ALIGNED = 64  # what cuDNN's lengths are multiples of


def attention(query: jax.Array, key: jax.Array, value: jax.Array, heads: int, causal: bool = False) -> jax.Array:
    """Multi-head attention, [N, Lq, C], [N, Lk, C], [N, Lk, C] -> [N, Lq, C]; softmax in float32."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    short = query.shape[1] < _LONG or key.shape[1] < _LONG or causal
    forms: dict[str, Callable[..., jax.Array]] = {"cpu": _in_turn, "default": _in_blocks}
    if short:
        forms = {"default": partial(_short, causal=causal)}
    if not causal and query.shape[1] >= _LONG and _cudnn_applies(q):
        # What one form keeps for its backward pass, JAX has the others keep as well: zeros as large as the scores.
        forms = {platform: jax.checkpoint(form) for platform, form in forms.items()}
        forms["cuda"] = _flash
    found = jax.lax.platform_dependent(q, k, v, **forms) if len(forms) > 1 else forms["default"](q, k, v)
    return found.reshape(query.shape)


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


def _in_blocks(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As `_short`, some queries at a time, whose scores the backward pass computes again."""
    return _by_heads(jax.vmap(_one_head), query, key, value)


def _in_turn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As `_in_blocks`, one head after another: plain matrix products, which fit the caches of a CPU.

    XLA's CPU is 4 times faster on them.
    """
    return _by_heads(lambda *each: jax.lax.map(lambda head: _one_head(*head), each), query, key, value)


def _by_heads(over_heads: Callable[..., jax.Array], *split: jax.Array) -> jax.Array:
    """`over_heads` of arrays [N * heads, L, d], of such as [N, L, heads, d]; and back."""
    n, _, heads, width = split[0].shape
    out = over_heads(*(jnp.moveaxis(x, 2, 1).reshape(n * heads, -1, width) for x in split))
    return jnp.moveaxis(out.reshape(n, heads, -1, width), 1, 2)


def _flash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As `_short`, by cuDNN, which keeps no scores: a prompt's keys are filled up to the length that it takes."""
    keys = key.shape[1]
    if more := -keys % _ALIGNED:
        key, value = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (key, value))
    lengths = jnp.full(len(query), keys, jnp.int32) if more else None
    return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation="cudnn")


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
    """Whether cuDNN's flash attention takes such heads, and the GPU, if any, is of compute capability 8 or more."""
    width = query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and query.shape[1] % _ALIGNED == 0 and width <= 128 and width % 8 == 0 and _capability() >= 8


def _capability() -> float:
    """The compute capability of the NVIDIA GPU that JAX computes on; 0 where it computes on something else."""
    told = str(getattr(jax.devices()[0], "compute_capability", ""))
    return float(told) if told.replace(".", "").isdigit() else 0.0
