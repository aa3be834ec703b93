"""Trains the miniature from scratch: the VAE, then the text encoder, then UNet and text encoder together.

    python -m recipes.pretrain --workdir runs/pretrain

This takes about two hours on two CPU cores; XLA_FLAGS=--xla_force_host_platform_device_count=2 keeps both cores busy.
If this command is stopped, give it again to resume. The command writes a diffusers folder to WORKDIR/snapshot. The text
encoder is trained before the UNet, because if it can already tell the parts of a caption apart, the UNet learns to
follow the text within minutes instead of hours.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

from recipes import vocabulary
from recipes.world import MINIATURE, Recipe, World
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.miniature import scenes
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.unet import UNet
from reversion_jax.models.vae import VAE
from reversion_jax.runtime.errors import one_line
from reversion_jax.training.fit import check_recipe, fit, gradient_step, one_cycle
from reversion_jax.weights import folder
from reversion_jax.weights.layout import OWN_SETTINGS
from reversion_jax.weights.resolve import MINIATURE_FOLDER
from reversion_jax.weights.save import save

Params = Any
Loss = tuple[jax.Array, dict[str, jax.Array]]  # the loss, and metrics to log


def train_vae(world: World, config: ModelConfig, recipe: Recipe, workdir: Path) -> tuple[Params, float]:
    """Stage 1: trains the VAE to reconstruct pictures, with a weak KL term.

    Returns the weights and the scaling factor 1 / std(latents).
    """
    vae = VAE(dataclasses.replace(config.vae, scaling_factor=1.0))
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(one_cycle(recipe.vae_steps, recipe.vae_rate), b2=0.99)
    )

    encode, decode = nn.apply(VAE.encode, vae), nn.apply(VAE.decode, vae)

    def loss_fn(params: Params, images: jax.Array, key: jax.Array) -> Loss:
        mean, std = encode(params, images)
        latents = mean + std * jax.random.normal(key, mean.shape)
        error = decode(params, latents) - images
        kl = 0.5 * jnp.mean(jnp.sum(mean**2 + std**2 - 1 - 2 * jnp.log(std), axis=(1, 2, 3)))
        l1, l2 = jnp.mean(jnp.abs(error)), jnp.mean(error**2)
        return l1 + l2 + recipe.kl_weight * kl, {"l1": l1, "kl": kl}

    def batch_fn(step: int) -> tuple[np.ndarray, jax.Array]:
        indices, _ = world.draw_batch("vae", step, recipe.vae_batch)
        return world.images(indices), jax.random.fold_in(jax.random.key(recipe.seed), step)

    params = jax.jit(vae.init)(jax.random.key(recipe.seed), world.images(np.arange(1)))
    state = params, optimiser.init(params)
    params, _ = fit("vae", state, gradient_step(loss_fn, optimiser), batch_fn, recipe.vae_steps, workdir)
    sample = jax.jit(encode)(params, world.images(np.arange(256)))[0]
    return params, float(1 / jnp.std(sample))


def encode_all(world: World, config: ModelConfig, vae_params: Params, workdir: Path) -> np.ndarray:
    """Returns the scaled posterior (mean, std) of every picture, float32 [num_scenes, 2, 8, 8, 4].

    The result is stored in workdir/latents.npy; if this file exists, it is read instead.
    """
    path = workdir / "latents.npy"
    if path.exists():
        return np.load(path)
    encode = jax.jit(lambda p, x: jnp.stack(nn.apply(VAE.encode, VAE(config.vae))(p, x), axis=1))
    chunks = np.array_split(np.arange(len(world.scenes)), max(len(world.scenes) // 64, 1))
    latents = np.concatenate([encode(vae_params, world.images(c)) for c in tqdm(chunks, "latents", mininterval=1)])
    np.save(path.with_suffix(".tmp.npy"), latents)
    path.with_suffix(".tmp.npy").replace(path)
    return latents


def caption_labels(scene: scenes.Scene, text: str) -> list[int]:
    """Returns a caption's labels: its relation, the colour and shape of each entity, and whether the scene is hatched.

    The relation is 12 if the caption only says "and".
    """
    colours, shapes = list(scenes.COLOURS), list(scenes.SHAPES)
    a, b = scene.subject, scene.object
    relation = scenes.RELATIONS.index(scene.relation)
    if " and " in text:
        relation = len(scenes.RELATIONS)
        if text.index(str(a)) > text.index(str(b)):
            a, b = b, a
    entities = (i for e in (a, b) for i in (colours.index(e.colour), shapes.index(e.shape)))
    return [relation, *entities, int(scene.hatched)]


def train_text(world: World, config: ModelConfig, tokenizer: Tokenizer, recipe: Recipe, workdir: Path) -> Params:
    """Stage 2: trains the text encoder, with linear classifiers at the end-of-text token, to classify captions.

    Returns the text encoder's weights.
    """
    encoder = CLIPTextEncoder(config.text)
    classes = (len(scenes.RELATIONS) + 1, *(len(scenes.COLOURS), len(scenes.SHAPES)) * 2, 2)
    optimiser = optax.adamw(one_cycle(recipe.text_steps, recipe.text_rate), b2=0.99, weight_decay=1e-2)

    def loss_fn(params: Params, ids: jax.Array, labels: jax.Array) -> Loss:
        states = nn.apply(CLIPTextEncoder.__call__, encoder)(params["encoder"], ids)
        end = jnp.argmax(ids == config.text.eos_token_id, axis=-1)
        pooled = jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0]
        logits = jnp.split(pooled @ params["heads"], np.cumsum(classes)[:-1], axis=-1)
        losses = [optax.softmax_cross_entropy_with_integer_labels(x, labels[:, i]) for i, x in enumerate(logits)]
        right = jnp.stack([jnp.argmax(x, axis=-1) == labels[:, i] for i, x in enumerate(logits)])
        return sum((jnp.mean(x) for x in losses), jnp.zeros(())), {"right": jnp.mean(jnp.all(right, axis=0))}

    def batch_fn(step: int) -> tuple[np.ndarray, np.ndarray]:
        indices, rng = world.draw_batch("text", step, recipe.text_batch)
        texts = [scenes.caption(world.scenes[i], rng) for i in indices]
        labels = [caption_labels(world.scenes[i], text) for i, text in zip(indices, texts, strict=True)]
        return tokenizer(texts), np.array(labels)

    params = {
        "encoder": encoder.init(jax.random.key(recipe.seed + 1), tokenizer([""])),
        "heads": 0.02 * jax.random.normal(jax.random.key(0), (config.text.hidden_size, sum(classes))),
    }
    state = params, optimiser.init(params)
    params, _ = fit("text", state, gradient_step(loss_fn, optimiser), batch_fn, recipe.text_steps, workdir)
    return params["encoder"]


def train_unet(
    world: World,
    latents: np.ndarray,
    text_params: Params,
    config: ModelConfig,
    schedule: Schedule,
    tokenizer: Tokenizer,
    recipe: Recipe,
    workdir: Path,
) -> Params:
    """Stage 3: trains UNet and text encoder with min-SNR weights (arXiv 2303.09556); returns the averaged weights."""
    unet, encoder = UNet(config.unet), CLIPTextEncoder(config.text)
    signal = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weights = jnp.asarray(np.minimum(signal, recipe.min_snr) / signal)
    rates = {"unet": recipe.unet_rate, "text_encoder": recipe.joint_text_rate}
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition(
            {k: optax.adamw(one_cycle(recipe.unet_steps, r), b2=0.99, weight_decay=1e-2) for k, r in rates.items()},
            {"unet": "unet", "text_encoder": "text_encoder"},
        ),
    )

    predict, encode = nn.apply(UNet.__call__, unet), nn.apply(CLIPTextEncoder.__call__, encoder)

    def loss_fn(params: Params, moments: jax.Array, ids: jax.Array, key: jax.Array) -> Loss:
        keys = jax.random.split(key, 3)
        mean, std = moments[:, 0], moments[:, 1]
        clean = mean + std * jax.random.normal(keys[0], mean.shape)
        noise = jax.random.normal(keys[1], mean.shape)
        timesteps = jax.random.randint(keys[2], mean.shape[:1], 0, len(weights))
        noisy = schedule.add_noise(clean, noise, timesteps)
        predicted = predict(params["unet"], noisy, timesteps, encode(params["text_encoder"], ids))
        error = jnp.mean(jnp.square(predicted - noise), axis=(1, 2, 3))
        return jnp.mean(weights[timesteps] * error), {"mse": jnp.mean(error)}

    step = gradient_step(loss_fn, optimiser)

    @jax.jit
    def average_in(average: Params, params: Params, count: jax.Array) -> Params:
        decay = jnp.minimum(recipe.ema_decay, (1 + count) / (10 + count))
        return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)

    def step_fn(state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        params, moments, average, count = state
        (params, moments), metrics = step((params, moments), batch)
        return (params, moments, average_in(average, params, count), count + 1), metrics

    def batch_fn(step: int) -> tuple[np.ndarray, np.ndarray, jax.Array]:
        indices, rng = world.draw_batch("unet", step, recipe.unet_batch)
        empty = rng.random(recipe.unet_batch) < recipe.empty_captions
        texts = ["" if e else scenes.caption(world.scenes[i], rng) for i, e in zip(indices, empty, strict=True)]
        return latents[indices], tokenizer(texts), jax.random.fold_in(jax.random.key(recipe.seed), step)

    context = jnp.zeros((1, config.text.max_position_embeddings, config.text.hidden_size))
    unet_params = jax.jit(unet.init)(jax.random.key(recipe.seed + 2), latents[:1, 0], jnp.zeros(1, int), context)
    params = {"unet": unet_params, "text_encoder": text_params}
    state = (params, optimiser.init(params), jax.tree.map(jnp.copy, params), jnp.zeros((), int))
    return fit("unet", state, step_fn, batch_fn, recipe.unet_steps, workdir)[2]


def pretrain(workdir: Path, recipe: Recipe) -> Path:
    """Trains all three networks and writes the diffusers folder WORKDIR/snapshot; returns its path."""
    check_recipe(workdir, dataclasses.asdict(recipe))
    tokens = workdir / "tokenizer"
    size = vocabulary.write(tokens, MINIATURE.text.max_position_embeddings)
    if size != MINIATURE.text.vocab_size:
        raise ValueError(f"the captions need {size} tokens: change MINIATURE.text in recipes/world.py to match")
    tokenizer = Tokenizer.load(tokens, vocab_size=size, length=MINIATURE.text.max_position_embeddings)
    world = World(recipe)
    vae_params, scaling_factor = train_vae(world, MINIATURE, recipe, workdir)
    config = dataclasses.replace(MINIATURE, vae=dataclasses.replace(MINIATURE.vae, scaling_factor=scaling_factor))
    latents = encode_all(world, config, vae_params, workdir)
    text_params = train_text(world, config, tokenizer, recipe, workdir)
    schedule = Schedule()
    trained = train_unet(world, latents, text_params, config, schedule, tokenizer, recipe, workdir)
    params = {name: tree["params"] for name, tree in {**trained, "vae": vae_params}.items()}
    model = folder.StableDiffusion(config, schedule, params, tokens)
    save(workdir / "snapshot", model, dtype=np.float16)
    # The default settings of the miniature model are not a result of this recipe. We found these settings by learning
    # words for relations on the miniature model.
    shutil.copy(MINIATURE_FOLDER / OWN_SETTINGS, workdir / "snapshot")
    return workdir / "snapshot"


@one_line
def main(argv: list[str]) -> None:
    del argv
    print(pretrain(Path(_WORKDIR.value), Recipe()))


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", "runs/pretrain", "The folder for checkpoints, logs and the snapshot.")
    app.run(main)
