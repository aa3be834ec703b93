"""Stable Diffusion 1.x's UNet: predicts the noise in latents from a timestep and a text encoder's states."""

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
from reversion_jax.models.layers import (
    Conv1x1,
    Conv3x3,
    Dense,
    Downsample,
    GroupNorm,
    LayerNorm,
    ResnetBlock,
    Upsample,
    timestep_embedding,
)

_FIXED = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
}
# Harmless either way: ours is always computed so, or it only matters to other models.
_IGNORED = ("upcast_attention", "addition_embed_type_num_heads", "split_head_dim", "use_memory_efficient_attention")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet, by diffusers' names; the defaults are Stable Diffusion 1.5's."""

    sample_size: int = 64
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: int = 8  # in spite of its name, the number of heads
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self):
        json_config.check_blocks(self, "down_block_types", ("CrossAttnDownBlock2D", "DownBlock2D"))
        json_config.check_blocks(self, "up_block_types", ("CrossAttnUpBlock2D", "UpBlock2D"))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "UNetConfig":
        """Reads diffusers' unet/config.json; ValueError names what is not Stable Diffusion 1.x."""
        values = {k: v for k, v in values.items() if k not in _IGNORED}
        return json_config.read(cls, values, _FIXED, strict=True)

    def to_json(self) -> dict[str, Any]:
        """The config.json that diffusers.UNet2DConditionModel loads."""
        return json_config.write(self, _FIXED)


class UNet(nn.Module):
    """latents [N, H, W, C], timesteps [N], context [N, L, D] -> predicted noise [N, H, W, C]."""

    config: UNetConfig
    dtype: Dtype = jnp.float32
    remat: bool = False  # keep only what enters each layer for the backward pass, which computes the rest again

    @nn.compact
    def __call__(self, latents: jax.Array, timesteps: jax.Array, context: jax.Array) -> jax.Array:
        c = self.config
        widths = c.block_out_channels
        last = len(widths) - 1
        time = timestep_embedding(timesteps, widths[0])
        time = _TimeEmbedding(4 * widths[0], self.dtype, name="time_embedding")(time)

        x = Conv3x3(widths[0], dtype=self.dtype, name="conv_in")(latents)
        skips = [x]
        for i, (kind, width) in enumerate(zip(c.down_block_types, widths, strict=True)):
            attends = kind.startswith("CrossAttn")
            block = _DownBlock(c, self.dtype, self.remat, width, attends, i < last, name=f"down_blocks_{i}")
            x, new = block(x, time, context)
            skips += new

        x = _MidBlock(c, self.dtype, self.remat, name="mid_block")(x, time, context)

        for i, (kind, width) in enumerate(zip(c.up_block_types, reversed(widths), strict=True)):
            mine = [skips.pop() for _ in range(c.layers_per_block + 1)]
            size = skips[-1].shape[1:3] if i < last else None
            attends = kind.startswith("CrossAttn")
            block = _UpBlock(c, self.dtype, self.remat, width, attends, name=f"up_blocks_{i}")
            x = block(x, mine, size, time, context)

        norm = GroupNorm(num_groups=c.norm_num_groups, epsilon=c.norm_eps, dtype=self.dtype, name="conv_norm_out")
        x = Conv3x3(c.out_channels, dtype=self.dtype, name="conv_out")(nn.silu(norm(x)))
        return x.astype(latents.dtype)


def _resnet(block: nn.Module, channels: int, name: str) -> ResnetBlock:
    kind = nn.remat(ResnetBlock) if block.remat else ResnetBlock
    return kind(channels, block.config.norm_num_groups, block.config.norm_eps, block.dtype, name=name)


def _transformer(block: nn.Module, name: str) -> "_Transformer2D":
    kind = nn.remat(_Transformer2D) if block.remat else _Transformer2D
    return kind(block.config, block.dtype, name=name)


class _DownBlock(nn.Module):
    config: UNetConfig
    dtype: Dtype
    remat: bool
    channels: int
    attends: bool
    downsamples: bool

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array, context: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        skips = []
        for i in range(self.config.layers_per_block):
            x = _resnet(self, self.channels, f"resnets_{i}")(x, time)
            if self.attends:
                x = _transformer(self, f"attentions_{i}")(x, context)
            skips.append(x)
        if self.downsamples:
            x = Downsample((1, 1), self.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, skips


class _MidBlock(nn.Module):
    config: UNetConfig
    dtype: Dtype
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = _resnet(self, channels, "resnets_0")(x, time)
        x = _transformer(self, "attentions_0")(x, context)
        return _resnet(self, channels, "resnets_1")(x, time)


class _UpBlock(nn.Module):
    config: UNetConfig
    dtype: Dtype
    remat: bool
    channels: int
    attends: bool

    @nn.compact
    def __call__(self, x, skips: list[jax.Array], size: tuple[int, int] | None, time, context) -> jax.Array:
        for i, skip in enumerate(skips):
            x = jnp.concatenate([x, skip], axis=-1)
            x = _resnet(self, self.channels, f"resnets_{i}")(x, time)
            if self.attends:
                x = _transformer(self, f"attentions_{i}")(x, context)
        # `size` is the next skip's: twice ours, less one where the way down halved an odd size.
        return x if size is None else Upsample(self.dtype, name="upsamplers_0")(x, size)


class _TimeEmbedding(nn.Module):
    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        hidden = nn.silu(Dense(self.width, dtype=self.dtype, name="linear_1")(time))
        return Dense(self.width, dtype=self.dtype, name="linear_2")(hidden)


class _Transformer2D(nn.Module):
    """One transformer block over all positions, in a residual."""

    config: UNetConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        # 1e-6 is PyTorch's; the legacy Flax classes had 1e-5.
        norm = GroupNorm(num_groups=self.config.norm_num_groups, epsilon=1e-6, dtype=self.dtype, name="norm")
        hidden = Conv1x1(c, dtype=self.dtype, name="proj_in")(norm(x)).reshape(n, h * w, c)
        hidden = _TransformerBlock(self.config, self.dtype, name="transformer_blocks_0")(hidden, context)
        return x + Conv1x1(c, dtype=self.dtype, name="proj_out")(hidden.reshape(n, h, w, c))


class _TransformerBlock(nn.Module):
    config: UNetConfig
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        attend = functools.partial(_Attention, self.config.attention_head_dim, self.dtype)
        hidden = norm(name="norm1")(x)
        x = x + attend(name="attn1")(hidden, hidden)
        x = x + attend(name="attn2")(norm(name="norm2")(x), context)
        return x + _FeedForward(self.dtype, name="ff")(norm(name="norm3")(x))


class _Attention(nn.Module):
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
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        return Dense(width, dtype=self.dtype, name="net_2")(_GEGLU(4 * width, self.dtype, name="net_0")(x))


class _GEGLU(nn.Module):
    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        value, gate = jnp.split(Dense(2 * self.width, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        return value * nn.gelu(gate, approximate=False)
