"""Turns exemplars and settings into the arrays that the training step reads.

The arrays are put on the device only once, before the first training step.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from reversion_jax.config import Settings, prompts_per_sample
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.inversion.arrays import SHARED, Data
from reversion_jax.inversion.draws import Hyperparameters, StepConfig
from reversion_jax.inversion.prompts import RelationPrompt
from reversion_jax.inversion.suppressor import gaussian_blur
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.runtime.errors import warn


@partial(jax.jit, static_argnames="config")
def _encode(params: Any, picture: jax.Array, sigma_px: jax.Array, config: VAEConfig) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the std [1, H/8, W/8, C] of one picture's posterior; see `posterior`.

    picture: [H, W, 3]. sigma_px: a scalar.
    """
    return nn.apply(VAE.encode, VAE(config))({"params": params}, gaussian_blur(picture[None], sigma_px))


def posterior(vae_params: Any, config: VAEConfig, images: np.ndarray, sigma_px: float) -> tuple[jax.Array, jax.Array]:
    """Filters pictures by a Gaussian low-pass and encodes them; returns the scaled posterior of their latents.

    images: pictures [E, H, W, 3] in [-1, 1]. sigma_px: standard deviation of the filter in pixels; 0: no filter.
    Returns the posterior's mean and std [E, H/8, W/8, C]. Raises ValueError if the mean or the std is not finite.
    """
    # One picture at a time takes less memory. On a CPU it is faster too: the allocator reuses smaller arrays' memory.
    parts = [_encode(vae_params, picture, np.float32(sigma_px), config) for picture in images]
    mean, std = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    if not (jnp.isfinite(mean).all() and jnp.isfinite(std).all()):
        raise ValueError(
            "the VAE turns the exemplars into NaN, although its weights are finite: set another VAE by config.vae"
        )
    return mean, std


def blank_posterior(config: VAEConfig, images: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns zeros in the shape of the pictures' posterior: a placeholder until the weights are loaded."""
    count, height, width, _ = images.shape
    zeros = jnp.zeros((count, height // config.downscale, width // config.downscale, config.latent_channels))
    return zeros, zeros


def prompt_ids(
    prompts: Sequence[RelationPrompt], tokenizer: Tokenizer, *, inverse: bool, where: str = "a prompt"
) -> np.ndarray:
    """Returns the token ids of each template's direct and inverse prompt, int32 [K, 2, L].

    inverse: whether inverse prompts are needed. If inverse prompts are not needed, templates need not be invertible,
    and the direct prompt is returned twice.
    where: the name of the templates' file or other place, for messages.
    Raises ValueError if a prompt is so long that a placeholder is cut off. Warns if only other words are cut off.
    """
    pairs = [(p.direct(), p.inverse() if inverse else p.direct()) for p in prompts]
    for prompt in (prompt for pair in pairs for prompt in pair):
        cut = tokenizer.truncated(prompt)
        if cut and any(token in cut for token in tokenizer.rows_per_token):
            raise ValueError(f"{where}: prompt too long, {cut!r} is cut off: {prompt!r}; shorten the caption")
        if cut:
            warn(f"{where}: the model reads only {tokenizer.length} tokens of {prompt!r}; left out: {cut!r}")
    return tokenizer([prompt for pair in pairs for prompt in pair]).reshape(len(pairs), 2, -1)


def word_table(words: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Returns the token ids of each word, int32 [W, k]. Words with fewer than k tokens are padded with -1."""
    ids = [tokenizer.word_ids(word) for word in words]
    table = np.full((len(ids), max(map(len, ids))), -1, np.int32)
    for row, word in zip(table, ids, strict=True):
        row[: len(word)] = word
    return table


def neutral_ids(
    tokenizer: Tokenizer, prepositions: Sequence[str], verbs: Sequence[str], stop_words: Sequence[str]
) -> set[int]:
    """Returns the tokens that <R> is never steered away from: special tokens, prepositions, verbs and stop words."""
    words = (*prepositions, *verbs, *stop_words)
    return set(tokenizer.special_ids).union(*(tokenizer.word_ids(word) for word in words))


def prepare_run(
    exemplars: Exemplars,
    tokenizer: Tokenizer,
    latents: tuple[jax.Array, jax.Array],
    *,
    prepositions: Sequence[str],
    verbs: Sequence[str],
    stop_words: Sequence[str],
    inverse: bool,
    steers_to_verbs: bool = True,
    negatives: str = "prompts",
) -> Data:
    """Returns the data of a single run, with R = 1; see `Data`.

    latents: mean and std of the posterior of the run's pictures.
    steers_to_verbs: whether <R> is steered towards verbs; if it is not, verbs count as negatives.
    Raises ValueError if `negatives` is "vocabulary" and the tokenizer has no whole words besides relation words and
    stop words.
    """
    mean, std = latents
    names = exemplars.names or [f"exemplar {i}" for i in range(len(exemplars.templates))]
    per_image = [
        prompt_ids(templates, tokenizer, inverse=inverse, where=name)
        for name, templates in zip(names, exemplars.templates, strict=True)
    ]
    counts = np.array([len(ids) for ids in per_image], np.int32)
    ids = np.stack([np.resize(ids, (counts.max(), *ids.shape[1:])) for ids in per_image])
    neutral = neutral_ids(tokenizer, prepositions, verbs if steers_to_verbs else (), stop_words)
    tokens = np.setdiff1d(np.arange(tokenizer.vocab_size, dtype=np.int32), np.array(sorted(neutral)))
    vocabulary = np.intersect1d(tokens, tokenizer.whole_words) if negatives == "vocabulary" else tokens
    if not len(vocabulary):
        raise ValueError("config.negatives='vocabulary': the model's tokenizer has no words to draw; use 'prompts'")
    return Data(
        mean=mean[None],
        std=std[None],
        num_exemplars=jnp.array([len(counts)], jnp.int32),
        ids=jnp.asarray(ids)[None],
        is_negative=jnp.asarray(np.isin(ids, tokens))[None],
        num_templates=jnp.asarray(counts)[None],
        prepositions=jnp.asarray(word_table(prepositions, tokenizer)),
        verbs=jnp.asarray(word_table(verbs, tokenizer)),
        vocabulary=jnp.asarray(vocabulary)[None],
        num_vocabulary=jnp.array([len(vocabulary)], jnp.int32),
    )


def join_runs(runs: Sequence[Data]) -> Data:
    """Joins the data of single runs along the runs axis.

    Exemplars, templates, prompts and vocabularies are padded to the size of the largest run. The training step never
    samples from the padding. Raises ValueError if the runs' word lists differ.
    """

    def join(name: str) -> jax.Array:
        arrays = [getattr(run, name) for run in runs]
        if name in SHARED:
            if any(array.shape != arrays[0].shape or (array != arrays[0]).any() for array in arrays):
                raise ValueError(f"runs that train together need the same {name}")
            return arrays[0]
        shape = np.max([array.shape[1:] for array in arrays], axis=0)
        missing = [[(0, 0), *((0, n) for n in shape - array.shape[1:])] for array in arrays]
        return jnp.concatenate([jnp.pad(array, m) for array, m in zip(arrays, missing, strict=True)])

    return Data(*[join(name) for name in Data._fields])


def step_config(config: Settings, blurs: bool) -> StepConfig:
    """Returns the settings that the compiled step depends on. blurs: whether any run filters noisy latents."""
    return StepConfig(
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        positives_per_sample=config.positives_per_sample,
        rows_per_token=config.rows_per_token,
        vocabulary_negatives=0 if config.negatives == "prompts" else config.vocabulary_negatives_per_sample,
        remat=config.remat,
        samples_at_once=config.samples_at_once,
        blur_noisy_latents=blurs,
        adds_inverse=prompts_per_sample(config) == 2,
        in_epochs=config.exemplar_draws == "epochs",
        adam_b1=config.adam_b1,
        adam_b2=config.adam_b2,
        adam_eps=config.adam_eps,
    )


def hyperparameters(runs: Sequence[Settings], sizes: ModelConfig) -> Hyperparameters:
    """Returns the settings that may differ between runs, as arrays [R].

    sizes: the model's sizes, which say how many pixels one latent covers.
    """

    def of_run(name: str, run: Settings) -> float:
        if name != "latent_sigma":
            return getattr(run, name)
        return run.suppressor_sigma_px / sizes.vae.downscale if run.suppressor_target == "noisy_latents" else 0.0

    kinds = {name: jnp.uint32 if name == "seed" else jnp.float32 for name in Hyperparameters._fields}
    return Hyperparameters(
        **{name: jnp.array([of_run(name, run) for run in runs], kind) for name, kind in kinds.items()}
    )
