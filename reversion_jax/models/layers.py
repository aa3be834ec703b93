"""Layers that the text encoder, UNet and VAE share. Parameters have the names that Hugging Face's Flax files use.

The networks' repeated layers are decorated with `nn.jit`, so that layers of the same shapes are traced and lowered
once. XLA inlines them, so the compiled programs are as fast as before.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from reversion_jax.models.convolution import convolve
from reversion_jax.models.normalisation import GroupNorm

# PyTorch's default initialisation, with which these models were developed: uniform, with variance 1 / (3 fan_in).
# Flax traces a parameter's initialiser each time a network is traced; with jit, it traces it once for each shape.
kernel_init = jax.jit(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), static_argnums=(1, 2))
Dense = functools.partial(nn.Dense, kernel_init=kernel_init)
Conv1x1 = functools.partial(nn.Conv, kernel_size=(1, 1), kernel_init=kernel_init)
Conv3x3 = functools.partial(
    nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=kernel_init, conv_general_dilated=convolve
)
# Flax computes the variance as E[x^2] - E[x]^2 by default, which loses digits if the mean is large. PyTorch does not.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def timestep_embedding(timesteps: jax.Array, width: int) -> jax.Array:
    """Returns the sinusoidal embedding of timesteps, [N] -> float32 [N, width].

    All cosines come before all sines, which is flip_sin_to_cos=True in diffusers.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


@nn.jit
class ResnetBlock(nn.Module):
    """Residual block of two normalised 3x3 convolutions: x [N, H, W, C] -> [N, H, W, channels].

    If a time embedding `time` [N, F] is given, it is added between the two convolutions.
    """

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
    """Halves height and width by a 3x3 convolution of stride 2: [N, H, W, C] -> [N, H/2, W/2, C]."""

    padding: tuple[int, int]  # pixels (before, after) on both axes
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = Conv3x3(x.shape[-1], strides=2, padding=(self.padding,) * 2, dtype=self.dtype, name="conv")
        return conv(x)


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, and applies a 3x3 convolution: [N, H, W, C] -> [N, 2H, 2W, C].

    If `size` (height, width) is given, the enlarged array is cropped to this size before the convolution.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, ...] | None = None) -> jax.Array:
        n, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
        if size is not None:
            x = x[:, : size[0], : size[1]]
        return Conv3x3(c, dtype=self.dtype, name="conv")(x)
