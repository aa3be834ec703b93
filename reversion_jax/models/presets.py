"""The configuration of a whole model, and the configuration of Stable Diffusion 1.5."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.typing import DTypeLike

from reversion_jax.models.clip import CLIPTextConfig
from reversion_jax.models.unet import UNetConfig
from reversion_jax.models.vae import VAEConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The configurations of the three networks of a latent diffusion model.

    Raises ValueError if the sizes of the networks do not fit together.
    """

    text: CLIPTextConfig
    unet: UNetConfig
    vae: VAEConfig

    def __post_init__(self) -> None:
        text, unet, vae = self.text, self.unet, self.vae
        if unet.cross_attention_dim != text.hidden_size:
            sizes = f"cross_attention_dim={unet.cross_attention_dim}, text hidden_size={text.hidden_size}"
            raise ValueError(f"UNet and text encoder do not fit: {sizes}")
        if not unet.in_channels == unet.out_channels == vae.latent_channels:
            sizes = f"in_channels={unet.in_channels}, out_channels={unet.out_channels}"
            raise ValueError(f"UNet and VAE do not fit: {sizes}, latent_channels={vae.latent_channels}")


def compute_dtype(params: Mapping[str, Any]) -> DTypeLike:
    """Returns the type in which text encoder and UNet compute, which is the type of the UNet's weights."""
    return params["unet"]["conv_in"]["kernel"].dtype


SD15 = ModelConfig(CLIPTextConfig(), UNetConfig(), VAEConfig())
