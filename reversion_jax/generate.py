"""Draws images: prompts and learned rows in, pictures out. Previews, `sample` and the judge all draw here."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from reversion_jax.diffusion import samplers
from reversion_jax.diffusion.guidance import alternating, guided_denoiser
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import rows as trainable
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.presets import ModelConfig, compute_dtype
from reversion_jax.models.unet import UNet
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.parallel import is_first, mesh_of, over_samples, whole
from reversion_jax.tokenizer import Tokenizer
from reversion_jax.weights.folder import StableDiffusion

BOTH_WAYS = ("mean", "alternate")  # what two prompts of an image do: their predictions are averaged, or they take turns
# The VAE decodes so many pixels at once: one picture of 512 px.
_DECODED_PIXELS = 512 * 512


@partial(jax.jit, static_argnames="model")
def encode_text(params: Any, model: ModelConfig, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """The text encoder's states of prompts with rows in place: ids [N, L], rows [P, D] -> [N, L, D]."""
    encoder = CLIPTextEncoder(model.text, compute_dtype(params))
    variables = {"params": params["text_encoder"]}
    embeddings = encoder.apply(variables, ids, method="embed")
    spliced = trainable.splice(embeddings[None], ids[None], rows[None], model.text.vocab_size)[0]
    return encoder.apply(variables, spliced, method="encode")


def predict(params: Any, model: ModelConfig, latents: jax.Array, timesteps: jax.Array, states: jax.Array) -> jax.Array:
    """The UNet's output for latents [N, H, W, C] at timesteps [N], given text states [N, L, D] -> [N, H, W, C]."""
    unet = UNet(model.unet, compute_dtype(params))
    return unet.apply({"params": params["unet"]}, latents, timesteps, states)


def decode(params: Any, config: VAEConfig, latents: jax.Array) -> jax.Array:
    """Latents [N, H, W, C] -> images [N, 8 H, 8 W, 3], some at a time, so that memory does not grow with N."""
    pixels = latents.shape[1] * latents.shape[2] * config.downscale**2
    one = lambda latents: VAE(config).apply({"params": params["vae"]}, latents[None], method="decode")[0]
    return jax.lax.map(one, latents, batch_size=max(1, _DECODED_PIXELS // pixels))


def initial_noise(seeds: Sequence[int] | jax.Array, model: ModelConfig, resolution: int) -> jax.Array:
    """One image's latent noise a seed, [N, H/8, W/8, C]; it depends on nothing but the seed and the size."""
    side = resolution // model.vae.downscale
    draw = lambda seed: jax.random.normal(jax.random.key(seed), (side, side, model.vae.latent_channels))
    return jax.vmap(draw)(jnp.asarray(seeds, jnp.uint32))


@partial(jax.jit, static_argnames=("model", "schedule", "sampler", "num_steps", "resolution", "both_ways", "mesh"))
def _draw_batch(
    params: Any,
    unconditional: jax.Array,  # [1, L, D]
    conditions: jax.Array,  # [N, K, L, D]
    seeds: np.ndarray,
    guidance_scale: np.ndarray,
    *,
    model: ModelConfig,
    schedule: Schedule,
    sampler: str,
    num_steps: int,
    resolution: int,
    both_ways: str,
    mesh: Mesh,
) -> jax.Array:
    def draw(params, unconditional, conditions, seeds, scales):
        noise = initial_noise(seeds, model, resolution)
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
        scales = scales[:, None, None, None]
        guided = partial(guided_denoiser, partial(predict, params, model), unconditional, scale=scales)
        conditions = jnp.moveaxis(conditions, 1, 0)
        if both_ways == "alternate":
            denoiser = alternating([guided([c]) for c in conditions], schedule.levels(num_steps)[0])
        else:
            denoiser = guided(conditions)
        return decode(params, model.vae, samplers.get(sampler)(denoiser, noise, schedule, num_steps, keys))

    unconditional = jnp.broadcast_to(unconditional, conditions[:, 0].shape)
    scales = jnp.broadcast_to(guidance_scale, len(seeds))
    images = over_samples(draw, mesh)(params, unconditional, conditions, seeds, scales)
    return whole(images, mesh)


def draw_batches(
    sd: StableDiffusion,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rows: np.ndarray | jax.Array | None = None,
    *,
    num_steps: int,
    guidance_scale: float,
    resolution: int,
    sampler: str = "ddim",
    negative_prompt: str = "",
    second_prompts: Sequence[str] | None = None,
    both_ways: str = "mean",
    batch_size: int = 4,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """One image a prompt and seed, in batches of float32 [n, resolution, resolution, 3] in [-1, 1], as they are drawn.

    With `second_prompts` an image is of two prompts at once, such as a relation said both ways round: their predictions
    are averaged (`both_ways` = "mean"), or they take DDIM's steps in turn ("alternate").

    It is done on the devices that the weights are on. `rows` [P, D] are the learned ones, without which prompts must
    hold no placeholder. The last batch is filled up by repetition, so that one compiled program serves any number of
    images. `progress` labels a bar. ValueError for an unknown sampler, a resolution that the model cannot have, a
    placeholder without a row, and unless there is a seed (and a second prompt) for each prompt.
    """
    samplers.get(sampler)
    multiple = sd.config.vae.downscale
    if resolution < multiple or resolution % multiple:
        raise ValueError(f"resolution={resolution}: this model draws multiples of {multiple} pixels")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds: each image needs one")
    said = [prompts] if second_prompts is None else [prompts, second_prompts]
    if len(said[-1]) != len(seeds):
        raise ValueError(f"{len(said[-1])} second prompts with {len(seeds)} seeds: each image needs one")
    if both_ways not in BOTH_WAYS:
        raise ValueError(f"both_ways={both_ways!r}: use one of {', '.join(BOTH_WAYS)}")
    if second_prompts is not None and both_ways == "alternate" and sampler != "ddim":
        raise ValueError(f"both_ways='alternate' is for the sampler ddim, whose steps stand alone, not for {sampler}")
    if rows is None:
        rows = np.zeros((0, sd.config.text.hidden_size), np.float32)
    rows = jnp.asarray(rows)

    mesh = mesh_of(sd.params)
    batch_size += -batch_size % mesh.size
    texts, number = np.unique([negative_prompt, *itertools.chain(*said)], return_inverse=True)
    negative, number = number[:1], number[1:].reshape(len(said), -1).T
    ids = tokenizer(texts.tolist())
    if ids.max() >= tokenizer.vocab_size + len(rows):
        raise ValueError(f"prompts hold placeholders for more than the {len(rows)} rows given")
    size = min(batch_size, len(ids))
    states = [encode_text(sd.params, sd.config, ids[_batch(i, size, len(ids))], rows) for i in range(0, len(ids), size)]
    states = jnp.concatenate(states)[: len(ids)]

    count = len(prompts)
    quiet = progress is None or not is_first()
    for start in tqdm(range(0, count, batch_size), progress, disable=quiet, mininterval=1):
        chosen = _batch(start, batch_size, count)
        batch = _draw_batch(
            sd.params,
            states[negative],
            states[number[chosen]],
            np.asarray(seeds, np.uint32)[chosen],
            np.float32(guidance_scale),
            model=sd.config,
            schedule=sd.schedule,
            sampler=sampler,
            num_steps=num_steps,
            resolution=resolution,
            both_ways=both_ways,
            mesh=mesh,
        )
        yield np.clip(np.asarray(batch)[: count - start], -1, 1)


def draw(*arguments, **settings) -> np.ndarray:
    """All of `draw_batches`'s images, [N, resolution, resolution, 3]."""
    return np.concatenate(list(draw_batches(*arguments, **settings)))


def _batch(start: int, size: int, count: int) -> np.ndarray:
    """Indices of a batch, which begins anew where the end is reached."""
    return np.arange(start, start + size) % count


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded as diffusers rounds."""
    return np.round((images + 1) * 127.5).astype(np.uint8)
