"""The data and hyperparameters of a training step on the tiny model."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from reversion_jax.data.exemplars import Exemplars
from reversion_jax.inversion import losses, networks
from reversion_jax.inversion.arrays import Data
from reversion_jax.inversion.draws import Hyperparameters, StepConfig
from reversion_jax.inversion.prompts import parse
from reversion_jax.models.clip import token_table
from reversion_jax.training import inputs

CONFIG = StepConfig(batch_size=2, accumulation=1, positives_per_sample=2, rows_per_token=1)
WORDS = {"prepositions": ("on", "of", "top"), "verbs": ("cat", "photo"), "stop_words": ("a",)}


def hyperparameters(**changes) -> Hyperparameters:
    values = {
        "seed": 0,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "denoise_weight": 1.0,
        "control_weight": 0.1,
        "verb_weight": 0.3,
        "temperature": 0.07,
        "inverse_share": 0.5,
        "importance": 0.5,
        "latent_sigma": 0.0,
    }
    values |= changes
    return Hyperparameters(**{k: jnp.array([v], jnp.uint32 if k == "seed" else jnp.float32) for k, v in values.items()})


def loss_of_step(rows, batch, params, hyper, model, schedule, config) -> jax.Array:
    """Returns the loss of one run as Eq. 10 states it, one micro-batch after another.

    The training step computes the gradient of this loss in another way, from gradients of single samples. `rows` has
    the shape [1, P, D], and the arrays of `batch` have [1, N, ...].
    """
    total, table, size = 0.0, token_table(params), config.batch_size
    for start in range(0, config.accumulation * size, size):
        own = jax.tree.map(lambda x, start=start: x[0, start : start + size], batch)
        noisy = schedule.add_noise(own.latents, own.noise, own.timestep)
        states = networks.encode_text(params, model, own.ids, jnp.repeat(rows, size, axis=0))
        predicted = networks.predict(params, model, noisy, own.timestep, states)
        denoising = jnp.mean(
            losses.denoising(predicted, schedule.training_target(own.latents, own.noise, own.timestep))
        )
        verbs, prepositions, negatives = (
            (table[jnp.maximum(ids.ravel(), 0)], ids.ravel() >= 0)
            for ids in (own.verbs, own.prepositions, own.negatives)
        )
        relation = rows[0, : config.rows_per_token]
        control = losses.control(
            relation, *verbs, *prepositions, *negatives, hyper.verb_weight[0], hyper.temperature[0]
        )
        total += hyper.denoise_weight[0] * denoising + hyper.control_weight[0] * control
    return total / config.accumulation


def make_data(
    tokenizer, model, count, templates=("cat {} dog", "photo of cat {} dog"), *, seed=0, negatives="prompts"
) -> Data:
    images = np.clip(tiny.noise(seed, (count, 16, 16, 3)), -1, 1)
    shown = Exemplars(images, (tuple(map(parse, templates)),) * count, tuple(map(str, range(count))))
    latents = inputs.posterior(model.params["vae"], model.config.vae, images, 0.5)
    return inputs.prepare_run(shown, tokenizer, latents, **WORDS, inverse=True, negatives=negatives)
