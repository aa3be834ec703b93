"""Calls the text encoder and the UNet for prompts that contain trainable rows, in training and in drawing."""

from typing import Any

import jax
from flax import linen as nn

from reversion_jax.inversion import rows as trainable
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.presets import ModelConfig, compute_dtype
from reversion_jax.models.unet import UNet


def encode_text(params: Any, model: ModelConfig, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns the text encoder's states for prompts: ids [N, L], rows [N, P, D] of each prompt -> [N, L, D]."""
    encoder = CLIPTextEncoder(model.text, compute_dtype(params))
    variables = {"params": params["text_encoder"]}
    embeddings = nn.apply(CLIPTextEncoder.embed, encoder)(variables, ids)
    spliced = trainable.splice(embeddings[:, None], ids[:, None], rows, model.text.vocab_size)[:, 0]
    return nn.apply(CLIPTextEncoder.encode, encoder)(variables, spliced)


def predict(
    params: Any, model: ModelConfig, latents: jax.Array, timesteps: jax.Array, states: jax.Array, remat: bool = False
) -> jax.Array:
    """Returns the UNet's output [N, H, W, C] for latents [N, H, W, C], timesteps [N] and text states [N, L, D].

    remat: the backward pass computes activations again, which saves memory.
    """
    unet = UNet(model.unet, compute_dtype(params), remat)
    return nn.apply(UNet.__call__, unet)({"params": params["unet"]}, latents, timesteps, states)
