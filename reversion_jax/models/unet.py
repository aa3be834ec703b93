"""Stable Diffusion 1.x's UNet. It predicts the noise in latents from the timestep and the text encoder's states."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from reversion_jax.models import json_config
from reversion_jax.models.layers import (
    Conv3x3,
    Dense,
    Downsample,
    ResnetBlock,
    Upsample,
    timestep_embedding,
)
from reversion_jax.models.normalisation import GroupNorm
from reversion_jax.models.transformer import Transformer2D

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
# These settings do not change the result here. Some settings ask for what this code always does; other settings concern
# other models.
_IGNORED = ("upcast_attention", "addition_embed_type_num_heads", "split_head_dim", "use_memory_efficient_attention")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a UNet. The fields have diffusers' names, and Stable Diffusion 1.5's defaults."""

    sample_size: int = 64  # height and width in latent pixels
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    attention_head_dim: int = 8  # the number of attention heads, in spite of its name
    cross_attention_dim: int = 768
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        json_config.check_blocks(self, "down_block_types", ("CrossAttnDownBlock2D", "DownBlock2D"))
        json_config.check_blocks(self, "up_block_types", ("CrossAttnUpBlock2D", "UpBlock2D"))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "UNetConfig":
        """Reads diffusers' unet/config.json. Raises ValueError if it is not for Stable Diffusion 1.x."""
        values = {k: v for k, v in values.items() if k not in _IGNORED}
        return json_config.read(cls, values, _FIXED, strict=True)

    def to_json(self) -> dict[str, Any]:
        """Returns the config.json that diffusers.UNet2DConditionModel loads."""
        return json_config.write(self, _FIXED)


class UNet(nn.Module):
    """The UNet: latents [N, H, W, C], timesteps [N], context [N, L, D] -> predicted noise [N, H, W, C].

    context: the text encoder's states. A model with prediction_type "v_prediction" predicts the velocity instead.
    """

    config: UNetConfig
    dtype: Dtype = jnp.float32
    remat: bool = False  # True: store only the inputs of layers; the backward pass computes the other values again

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
            down = _DownBlock(c, self.dtype, self.remat, width, attends, i < last, name=f"down_blocks_{i}")
            x, new = down(x, time, context)
            skips += new

        x = _MidBlock(c, self.dtype, self.remat, name="mid_block")(x, time, context)

        for i, (kind, width) in enumerate(zip(c.up_block_types, reversed(widths), strict=True)):
            mine = [skips.pop() for _ in range(c.layers_per_block + 1)]
            size = skips[-1].shape[1:3] if i < last else None
            attends = kind.startswith("CrossAttn")
            up = _UpBlock(c, self.dtype, self.remat, width, attends, name=f"up_blocks_{i}")
            x = up(x, mine, size, time, context)

        norm = GroupNorm(c.norm_num_groups, c.norm_eps, self.dtype, silu=True, name="conv_norm_out")
        x = Conv3x3(c.out_channels, dtype=self.dtype, name="conv_out")(norm(x))
        return x.astype(latents.dtype)


def _resnet(block: "_DownBlock | _MidBlock | _UpBlock", channels: int, name: str) -> ResnetBlock:
    """Returns a residual layer for a block: x [N, H, W, C], time [N, F] -> [N, H, W, channels]."""
    kind = nn.remat(ResnetBlock) if block.remat else ResnetBlock
    return kind(channels, block.config.norm_num_groups, block.config.norm_eps, block.dtype, name=name)


def _transformer(block: "_DownBlock | _MidBlock | _UpBlock", name: str) -> Transformer2D:
    """Returns a transformer layer for a block: x [N, H, W, C], context [N, L, D] -> [N, H, W, C]."""
    kind = nn.remat(Transformer2D) if block.remat else Transformer2D
    return kind(block.config.attention_head_dim, block.config.norm_num_groups, block.dtype, name=name)


class _DownBlock(nn.Module):
    """One level of the UNet's first half: x [N, H, W, C], time [N, F], context [N, L, D] -> output, skip connections.

    The output is [N, H/2, W/2, channels] if the level downsamples, otherwise [N, H, W, channels]. The skip connections
    are the outputs of the level's layers, and of its downsampling.
    """

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
    """The level with the smallest height and width: x [N, H, W, C], time [N, F], context [N, L, D] -> [N, H, W, C]."""

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
    """One level of the UNet's second half: x [N, H, W, C], skips [N, H, W, C'], time [N, F], context [N, L, D].

    Returns an array [N, *size, channels], which is upsampled, or [N, H, W, channels] if `size` is None, as at the last
    level.
    """

    config: UNetConfig
    dtype: Dtype
    remat: bool
    channels: int
    attends: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, skips: list[jax.Array], size: tuple[int, ...] | None, time: jax.Array, context: jax.Array
    ) -> jax.Array:
        for i, skip in enumerate(skips):
            x = jnp.concatenate([x, skip], axis=-1)
            x = _resnet(self, self.channels, f"resnets_{i}")(x, time)
            if self.attends:
                x = _transformer(self, f"attentions_{i}")(x, context)
        # `size` is the size of the next skip connection: twice the size of x, or one less if the first half of the
        # UNet halved an odd size.
        return x if size is None else Upsample(self.dtype, name="upsamplers_0")(x, size)


class _TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoidal embedding of the timesteps, [N, C] -> [N, width].

    The UNet's blocks get the output as `time` [N, F].
    """

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        hidden = nn.silu(Dense(self.width, dtype=self.dtype, name="linear_1")(time))
        return Dense(self.width, dtype=self.dtype, name="linear_2")(hidden)
