"""The data and hyperparameters of a training step on the tiny model."""

import jax.numpy as jnp
import numpy as np
import tiny

from reversion_jax.data.exemplars import Exemplars
from reversion_jax.inversion.arrays import Data
from reversion_jax.inversion.draws import Hyperparameters, StepConfig
from reversion_jax.inversion.prompts import parse
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


def make_data(tokenizer, model, count, templates=("cat {} dog", "photo of cat {} dog"), *, seed=0) -> Data:
    images = np.clip(tiny.noise(seed, (count, 16, 16, 3)), -1, 1)
    shown = Exemplars(images, (tuple(map(parse, templates)),) * count, tuple(map(str, range(count))))
    return inputs.prepare_run(
        shown, tokenizer, model.params["vae"], model.config.vae, **WORDS, inverse=True, sigma_px=0.5
    )
