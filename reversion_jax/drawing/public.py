"""The library's functions for drawing and for gradients with a model, prompts, and learned words."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reversion_jax.config import Settings, settle
from reversion_jax.diffusion.noise import Between
from reversion_jax.drawing import generate, texts
from reversion_jax.drawing import init_image as pictures
from reversion_jax.inversion import networks
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.weights import own_settings
from reversion_jax.weights.load import Model

LearnedWords = Mapping[str, "np.ndarray | jax.Array"]  # rows [S, D] by token


def _with_words(model: Model, words: LearnedWords | None) -> tuple[Tokenizer, jax.Array]:
    """Returns a tokenizer that knows the learned words, and the words' rows [P, D].

    Raises ValueError if a word's rows do not have the width of the model's embeddings.
    """
    words = words or {}
    width = model.sd.config.text.hidden_size
    for token, rows in words.items():
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"{token} has shape {list(rows.shape)}: for this model it must be [rows, {width}]")
    tokenizer = dataclasses.replace(model.tokenizer, rows_per_token={token: len(r) for token, r in words.items()})
    return tokenizer, jnp.concatenate([jnp.zeros((0, width)), *map(jnp.asarray, words.values())])


def encode_text(model: Model, prompts: str | Sequence[str], words: LearnedWords | None = None) -> jax.Array:
    """Returns the text encoder's states of the prompts, [N, L, D].

    words: learned rows [S, D] by token. The result is differentiable with respect to these rows.
    Raises ValueError if rows have another width than the model's embeddings.
    """
    tokenizer, rows = _with_words(model, words)
    with jax.default_matmul_precision(model.sd.products):
        return texts.encode_text(model.sd.params, model.sd.config, tokenizer(prompts), rows)


def predict(model: Model, latents: jax.Array, timesteps: jax.Array, states: jax.Array) -> jax.Array:
    """Returns the UNet's output for latents [N, H, W, C] at timesteps [N] with text states [N, L, D].

    The text states come from `encode_text`. The output has the shape of the latents.
    """
    with jax.default_matmul_precision(model.sd.products):
        return _predict(model.sd.params, model.sd.config, latents, timesteps, states)


_predict = jax.jit(networks.predict, static_argnums=1)  # without jit, compiling all its operations takes a minute


def draw(
    model: Model,
    prompts: Sequence[str | Between],
    words: LearnedWords | None = None,
    *,
    seeds: Sequence[int | Between] | None = None,
    init_image: str | os.PathLike | np.ndarray | jax.Array | None = None,
    strength: float = pictures.STRENGTH,
    progress: str | None = None,
    **sampling: Any,
) -> np.ndarray:
    """Draws one image for each prompt; returns float32 [N, H, W, 3] in [-1, 1].

    prompts: each prompt is a text, or Between(first, last, weight) to interpolate between two texts.
    words: learned rows [S, D] by token.
    seeds: one seed for the noise of each image, by default 0, 1, …; a seed may also be a Between.
    init_image: picture for image to image, either a file, which is squashed to the size of the images, or an array of
    that size, float32 [H, W, 3] in [-1, 1].
    strength: how much of init_image may change, in (0, 1].
    progress: label of a progress bar; None: no bar.
    sampling: fields of `Sampling`, such as num_steps=20; other fields get values that suit the model.
    Raises ValueError for bad input.
    """
    tokenizer, rows = _with_words(model, words)
    settings = settle(Settings(model=model.name), own_settings.read(model.name))
    how = dataclasses.replace(generate.Sampling.of(settings, at_most=len(prompts)), **sampling)
    seeds = range(len(prompts)) if seeds is None else seeds
    init = None
    if isinstance(init_image, str | os.PathLike):
        init = pictures.read(init_image, how.size, settings.resize, strength)
    elif init_image is not None:
        init = pictures.InitImage(np.asarray(init_image), strength)
    return generate.draw(model.sd, tokenizer, prompts, seeds, rows, sampling=how, init=init, progress=progress)
