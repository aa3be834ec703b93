"""Stable Diffusion 1.x's autoencoder (VAE): images in [-1, 1] <-> scaled latents of 1/8 of the height and width."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from reversion_jax.models import json_config
from reversion_jax.models.attention import attention
from reversion_jax.models.layers import Conv1x1, Conv3x3, Dense, Downsample, ResnetBlock, Upsample
from reversion_jax.models.normalisation import GroupNorm

_EPSILON = 1e-6  # epsilon of every normalisation in the VAE
_FIXED = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "in_channels": 3,
    "mid_block_add_attention": True,
    "out_channels": 3,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
# This setting tells other tools not to compute in float16. Here, the caller chooses the dtype.
_IGNORED = ("force_upcast",)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of a VAE. The fields have diffusers' names, and Stable Diffusion 1.5's defaults."""

    sample_size: int = 512  # height and width of images in pixels
    latent_channels: int = 4
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # multiplies latents, so that their variance is about 1

    def __post_init__(self) -> None:
        json_config.check_blocks(self, "down_block_types", ("DownEncoderBlock2D",))
        json_config.check_blocks(self, "up_block_types", ("UpDecoderBlock2D",))

    @property
    def downscale(self) -> int:
        """The number of image pixels per latent pixel, along one axis."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VAEConfig":
        """Reads diffusers' vae/config.json. Raises ValueError if it is not for Stable Diffusion 1.x."""
        values = {k: v for k, v in values.items() if k not in _IGNORED}
        return json_config.read(cls, values, _FIXED, strict=True)

    def to_json(self) -> dict[str, Any]:
        """Returns the config.json that diffusers.AutoencoderKL loads."""
        return json_config.write(self, _FIXED)


class VAE(nn.Module):
    """The VAE's encoder and decoder. The latents of `encode` and `decode` are multiplied by the scaling factor."""

    config: VAEConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        channels = self.config.latent_channels
        self.encoder = _Encoder(self.config, self.dtype)
        self.decoder = _Decoder(self.config, self.dtype)
        self.quant_conv = Conv1x1(2 * channels, dtype=self.dtype)
        self.post_quant_conv = Conv1x1(channels, dtype=self.dtype)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the mean and standard deviation of the posterior, [N, H, W, 3] -> two float32 [N, H/8, W/8, C]."""
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        std = jnp.exp(0.5 * jnp.clip(log_variance, -30, 20))
        return self.config.scaling_factor * mean, self.config.scaling_factor * std

    def decode(self, latents: jax.Array) -> jax.Array:
        """Returns the images of scaled latents, not clipped to [-1, 1]: [N, H/8, W/8, C] -> float32 [N, H, W, 3]."""
        x = self.post_quant_conv(latents / self.config.scaling_factor)
        return self.decoder(x).astype(jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the VAE's reconstructions of images, from the mean of the posterior."""
        return self.decode(self.encode(images)[0])


class _Encoder(nn.Module):
    """The VAE's encoder: images [N, H, W, 3] -> the input of `quant_conv`, [N, H/8, W/8, 2 C]."""

    config: VAEConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        last = len(c.block_out_channels) - 1
        x = Conv3x3(c.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(c.block_out_channels):
            block = _Block(
                c, self.dtype, width, c.layers_per_block, "down" if i < last else "", name=f"down_blocks_{i}"
            )
            x = block(x)
        x = _MidBlock(c, self.dtype, name="mid_block")(x)
        return _out(c, self.dtype, 2 * c.latent_channels, x)


class _Decoder(nn.Module):
    """The VAE's decoder: the output of `post_quant_conv`, [N, H/8, W/8, C] -> images [N, H, W, 3]."""

    config: VAEConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        last = len(c.block_out_channels) - 1
        x = Conv3x3(c.block_out_channels[-1], dtype=self.dtype, name="conv_in")(x)
        x = _MidBlock(c, self.dtype, name="mid_block")(x)
        for i, width in enumerate(reversed(c.block_out_channels)):
            block = _Block(
                c, self.dtype, width, c.layers_per_block + 1, "up" if i < last else "", name=f"up_blocks_{i}"
            )
            x = block(x)
        return _out(c, self.dtype, 3, x)


class _Block(nn.Module):
    """Residual layers, then resampling: [N, H, W, C] -> [N, H, W, channels], or half or twice that height and width."""

    config: VAEConfig
    dtype: Dtype
    channels: int
    layers: int
    resample: str  # "down" halves height and width, "up" doubles them, "" keeps them as they are

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.layers):
            x = _resnet(self.config, self.dtype, self.channels, f"resnets_{i}")(x)
        if self.resample == "down":
            # Unlike in the UNet, only the right edge and the bottom edge are padded.
            x = Downsample((0, 1), self.dtype, name="downsamplers_0")(x)
        elif self.resample == "up":
            x = Upsample(self.dtype, name="upsamplers_0")(x)
        return x


class _MidBlock(nn.Module):
    """The level with the smallest height and width, [N, H, W, C] -> [N, H, W, C]."""

    config: VAEConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = _resnet(self.config, self.dtype, channels, "resnets_0")(x)
        x = _Attention(self.config, self.dtype, name="attentions_0")(x)
        return _resnet(self.config, self.dtype, channels, "resnets_1")(x)


class _Attention(nn.Module):
    """Attention over all positions with one head and a residual connection, [N, H, W, C] -> [N, H, W, C]."""

    config: VAEConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        project = functools.partial(Dense, c, dtype=self.dtype)
        hidden = _norm(self.config, self.dtype, "group_norm")(x).reshape(n, h * w, c)
        query, key, value = (project(name=name)(hidden) for name in ("query", "key", "value"))
        hidden = project(name="proj_attn")(attention(query, key, value, heads=1))
        return x + hidden.reshape(n, h, w, c)


def _norm(c: VAEConfig, dtype: Dtype, name: str, silu: bool = False) -> GroupNorm:
    """Returns a group normalisation layer of the VAE; with `silu`, SiLU follows it."""
    return GroupNorm(c.norm_num_groups, _EPSILON, dtype, silu, name=name)


def _resnet(c: VAEConfig, dtype: Dtype, channels: int, name: str) -> ResnetBlock:
    """Returns a residual layer of the VAE, [N, H, W, C] -> [N, H, W, channels]."""
    return ResnetBlock(channels, c.norm_num_groups, _EPSILON, dtype, name=name)


def _out(c: VAEConfig, dtype: Dtype, channels: int, x: jax.Array) -> jax.Array:
    """Applies the last layers of the encoder or the decoder, [N, H, W, C] -> [N, H, W, channels]."""
    # The encoder and the decoder call this inside their compact methods, so these layers become their submodules.
    x = _norm(c, dtype, "conv_norm_out", silu=True)(x)
    return Conv3x3(channels, dtype=dtype, name="conv_out")(x)
