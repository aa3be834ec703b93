"""Layers shared by text encoder, UNet and VAE. Parameters are named as in Hugging Face's Flax files."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from reversion_jax.models.convolution import convolve
from reversion_jax.models.normalisation import GroupNorm

# PyTorch's default, with which the models' recipes were tuned: uniform, variance 1 / (3 fan_in).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Dense = functools.partial(nn.Dense, kernel_init=kernel_init)
Conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), kernel_init=kernel_init)
Conv3x3 = functools.partial(
    nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=kernel_init, conv_general_dilated=convolve
)
# Flax's default variance, E[x^2] - E[x]^2, loses digits when the mean is large; PyTorch's does not.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def timestep_embedding(timesteps: jax.Array, width: int) -> jax.Array:
    """Sinusoids [cos, sin] of the timesteps, [N] -> float32 [N, width] (flip_sin_to_cos)."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions in a residual; the time embedding, if any, is added between."""

    channels: int
    groups: int
    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        norm = functools.partial(GroupNorm, self.groups, self.epsilon, self.dtype, silu=True)
        hidden = norm(name="norm1")(x)
        hidden = Conv3x3(self.channels, dtype=self.dtype, name="conv1")(hidden)
        if time is not None:
            shift = Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
            hidden = hidden + shift[:, None, None, :]
        hidden = norm(name="norm2")(hidden)
        hidden = Conv3x3(self.channels, dtype=self.dtype, name="conv2")(hidden)
        if x.shape[-1] != self.channels:
            x = Conv1x1(self.channels, dtype=self.dtype, name="conv_shortcut")(x)
        return x + hidden


class Downsample(nn.Module):
    """Halves height and width by a strided 3x3 convolution; `padding` is (before, after) on both axes."""

    padding: tuple[int, int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = Conv3x3(x.shape[-1], strides=2, padding=(self.padding,) * 2, dtype=self.dtype, name="conv")
        return conv(x)


class Upsample(nn.Module):
    """Doubles height and width by repetition, crops to `size` if given, then a 3x3 convolution."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, ...] | None = None) -> jax.Array:
        n, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return Conv3x3(c, dtype=self.dtype, name="conv")(x)
