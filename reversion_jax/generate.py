"""Draws images: prompts and learned rows in, pictures out. Previews, `sample` and the judge all draw here."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from reversion_jax.diffusion.guidance import guided_denoiser
from reversion_jax.diffusion.samplers import ddim
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import rows as trainable
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.unet import UNet
from reversion_jax.models.vae import VAE
from reversion_jax.tokenizer import Tokenizer
from reversion_jax.weights.folder import StableDiffusion


def encode_text(params: Any, model: ModelConfig, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """The text encoder's states of prompts with rows in place: ids [N, L], rows [P, D] -> [N, L, D]."""
    encoder, variables = CLIPTextEncoder(model.text), {"params": params["text_encoder"]}
    embeddings = encoder.apply(variables, ids, method="embed")
    spliced = trainable.splice(embeddings[None], ids[None], rows[None], model.text.vocab_size)[0]
    return encoder.apply(variables, spliced, method="encode")


def initial_noise(seeds: Sequence[int], model: ModelConfig, resolution: int) -> jax.Array:
    """One image's latent noise a seed, [N, H/8, W/8, C]; it depends on nothing but the seed and the size."""
    side = resolution // model.vae.downscale
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    return jax.vmap(lambda key: jax.random.normal(key, (side, side, model.vae.latent_channels)))(keys)


@partial(jax.jit, static_argnames=("model", "schedule", "num_steps"))
def _draw_batch(
    params: Any,
    ids: jax.Array,
    negative_ids: jax.Array,
    rows: jax.Array,
    noise: jax.Array,
    guidance_scale: jax.Array,
    *,
    model: ModelConfig,
    schedule: Schedule,
    num_steps: int,
) -> jax.Array:
    context = encode_text(params, model, jnp.concatenate([negative_ids, ids]), rows)
    unconditional, conditional = jnp.split(context, 2)

    def predict(latents, timesteps, context):
        return UNet(model.unet).apply({"params": params["unet"]}, latents, timesteps, context)

    denoiser = guided_denoiser(predict, unconditional, conditional, guidance_scale)
    latents = ddim(denoiser, noise, schedule, num_steps, None)
    return VAE(model.vae).apply({"params": params["vae"]}, latents, method="decode")


def draw(
    sd: StableDiffusion,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rows: np.ndarray | jax.Array | None = None,
    *,
    num_steps: int,
    guidance_scale: float,
    resolution: int,
    negative_prompt: str = "",
    batch_size: int = 4,
    progress: str | None = None,
) -> np.ndarray:
    """One image a prompt and seed, float32 [N, resolution, resolution, 3] in [-1, 1].

    `rows` [P, D] are the learned ones, without which prompts must hold no placeholder. Batches are filled up by
    repetition, so that one compiled program serves any number of images. `progress` labels a bar.
    """
    if rows is None:
        rows = np.zeros((0, sd.config.text.hidden_size), np.float32)
    ids, negative = tokenizer(list(prompts)), tokenizer([negative_prompt] * batch_size)
    count = len(ids)
    images = []
    for start in tqdm(range(0, count, batch_size), progress, disable=progress is None, mininterval=1):
        chosen = np.arange(start, start + batch_size) % count
        # On the host at once, so that the bar tells the truth.
        images.append(
            np.asarray(
                _draw_batch(
                    sd.params,
                    ids[chosen],
                    negative,
                    jnp.asarray(rows),
                    initial_noise(np.asarray(seeds)[chosen], sd.config, resolution),
                    jnp.float32(guidance_scale),
                    model=sd.config,
                    schedule=sd.schedule,
                    num_steps=num_steps,
                )
            )
        )
    return np.clip(np.concatenate(images)[:count], -1, 1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded as diffusers rounds."""
    return np.round((images + 1) * 127.5).astype(np.uint8)
