"""The UNet's transformer: positions attend to each other, and then to the states of the text encoder."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from reversion_jax.models.attention import attention
from reversion_jax.models.layers import Conv1x1, Dense, LayerNorm, kernel_init
from reversion_jax.models.normalisation import GroupNorm


@nn.jit  # layers of the same shapes are traced once, see layers.py
class Transformer2D(nn.Module):
    """A transformer block over all positions, with a residual connection.

    x [N, H, W, C], context (the text encoder's states) [N, L, D] -> [N, H, W, C].
    """

    heads: int
    groups: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        # The PyTorch classes of diffusers use an epsilon of 1e-6. The legacy Flax classes used an epsilon of 1e-5.
        norm = GroupNorm(num_groups=self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")
        hidden = Conv1x1(c, dtype=self.dtype, name="proj_in")(norm(x)).reshape(n, h * w, c)
        hidden = _TransformerBlock(self.heads, self.dtype, name="transformer_blocks_0")(hidden, context)
        return x + Conv1x1(c, dtype=self.dtype, name="proj_out")(hidden.reshape(n, h, w, c))


class _TransformerBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each with a residual connection.

    x [N, HW, C], context [N, L, D] -> [N, HW, C].
    """

    heads: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        attend = functools.partial(_Attention, self.heads, self.dtype)
        hidden = norm(name="norm1")(x)
        x = x + attend(name="attn1")(hidden, hidden)
        x = x + attend(name="attn2")(norm(name="norm2")(x), context)
        return x + _FeedForward(self.dtype, name="ff")(norm(name="norm3")(x))


class _Attention(nn.Module):
    """Attention with queries from x [N, HW, C], and keys and values from context [N, L, D] -> [N, HW, C]."""

    heads: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        project = functools.partial(Dense, x.shape[-1], dtype=self.dtype)
        query = project(use_bias=False, name="to_q")(x)
        key = project(use_bias=False, name="to_k")(context)
        value = project(use_bias=False, name="to_v")(context)
        return project(name="to_out_0")(attention(query, key, value, self.heads))


class _FeedForward(nn.Module):
    """The MLP of a transformer block, [N, HW, C] -> [N, HW, C]."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        return Dense(width, dtype=self.dtype, name="net_2")(_GEGLU(4 * width, self.dtype, name="net_0")(x))


class _GEGLU(nn.Module):
    """A linear layer, multiplied by the GELU of another linear layer, [N, HW, C] -> [N, HW, width]."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        value, gate = _Halves(self.width, self.dtype, name="proj")(x)
        return value * nn.gelu(gate, approximate=False)


class _Halves(nn.Module):
    """The two halves of the output of one linear layer, [N, HW, C] -> two arrays [N, HW, width].

    The halves are computed as two matrix products. With one matrix product, the backward pass would have to concatenate
    the gradients of the two halves, which are large.
    """

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", kernel_init, (x.shape[-1], 2 * self.width))
        bias = self.param("bias", nn.initializers.zeros_init(), (2 * self.width,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        kernels, biases = jnp.split(kernel, 2, axis=1), jnp.split(bias, 2)
        value, gate = (x @ own + shift[None, None] for own, shift in zip(kernels, biases, strict=True))
        return value, gate
