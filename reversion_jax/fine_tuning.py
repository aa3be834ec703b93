"""DreamBooth (Ruiz et al., 2022, arXiv:2208.12242) on a relation's exemplars: the UNet learns, no word does.

A further baseline of ReVersion's. The whole UNet is fine-tuned on prompts in which a rare word stands for the relation,
optionally beside pictures that the model itself drew of the same things without it (prior preservation).
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from ml_collections import ConfigDict

from reversion_jax import generate
from reversion_jax.data import batches
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.fit import check_recipe, fit
from reversion_jax.inversion import losses, prompts
from reversion_jax.job import sampling
from reversion_jax.models.unet import UNet, UNetConfig
from reversion_jax.tokenizer import Tokenizer
from reversion_jax.weights import folder


@dataclasses.dataclass(frozen=True)
class Recipe:
    """DreamBooth's own settings. The rate is the paper's for Stable Diffusion; the others are our guesses."""

    word: str = "sks"  # what stands for the relation: rare, so that it means little yet
    steps: int = 400
    batch_size: int = 4
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    prior_weight: float = 0.0  # of the loss on the model's own pictures; 0: there are none
    checkpoints: int = 4  # each of three times the UNet's size


MINIATURE = Recipe(batch_size=8, steps=200, learning_rate=1e-4)  # the best of three tried on two relations


def _conditions(sd: folder.StableDiffusion, tokenizer: Tokenizer, shown: Exemplars, words: str) -> list[jax.Array]:
    """Text states [K, L, D] of each exemplar's templates, with `words` for the relation."""
    none = jnp.zeros((0, sd.config.text.hidden_size))
    encode = partial(generate.encode_text, sd.params, sd.config)
    return [encode(tokenizer([prompts.natural(t, words) for t in own]), none) for own in shown.templates]


def _own_pictures(
    sd: folder.StableDiffusion, tokenizer: Tokenizer, shown: Exemplars, words: str, config: ConfigDict
) -> Exemplars:
    """A picture of every template, as the model draws it before it has learned anything."""
    templates = [template for own in shown.templates for template in own]
    images = generate.draw(
        sd,
        tokenizer,
        [prompts.natural(template, words) for template in templates],
        [config.seed + i for i in range(len(templates))],
        progress="prior",
        **sampling(config),
    )
    return Exemplars(images, tuple((template,) for template in templates), ())


def _optimiser(recipe: Recipe) -> optax.GradientTransformation:
    return optax.adamw(recipe.learning_rate, weight_decay=recipe.weight_decay)


def loss(params: Any, batch: Any, config: UNetConfig, schedule: Schedule, recipe: Recipe) -> jax.Array:
    """The UNet's denoising loss on a batch (mean, std [M, H, W, C], text states [M, L, D], key); eq. 2 of the paper.

    The first `recipe.batch_size` samples are of exemplars, the others the model's own.
    """
    mean, std, states, key = batch
    keys = jax.random.split(key, 3)
    clean = mean + std * jax.random.normal(keys[0], mean.shape)
    noise = jax.random.normal(keys[1], mean.shape)
    timesteps = jax.random.randint(keys[2], mean.shape[:1], 0, schedule.num_train_timesteps)
    predicted = UNet(config).apply({"params": params}, schedule.add_noise(clean, noise, timesteps), timesteps, states)
    error = losses.denoising(predicted, schedule.training_target(clean, noise, timesteps))
    weights = jnp.where(jnp.arange(len(mean)) < recipe.batch_size, 1.0, recipe.prior_weight)
    return jnp.sum(weights * error) / recipe.batch_size


@partial(jax.jit, static_argnames=("config", "schedule", "recipe"), donate_argnames="state")
def _step(state: Any, batch: Any, config: UNetConfig, schedule: Schedule, recipe: Recipe) -> tuple[Any, dict]:
    params, moments = state
    value, grads = jax.value_and_grad(loss)(params, batch, config, schedule, recipe)
    updates, moments = _optimiser(recipe).update(grads, moments, params)
    return (optax.apply_updates(params, updates), moments), {"loss": value}


def train(
    config: ConfigDict,
    recipe: Recipe,
    sd: folder.StableDiffusion,
    tokenizer: Tokenizer,
    shown: Exemplars,
    workdir: epath.PathLike,
) -> Any:
    """The UNet's weights, fine-tuned on the exemplars; it goes on from what an earlier, stopped run left in `workdir`.

    ValueError where that is a run of other settings; FloatingPointError if it diverges.
    """
    of_config = ("model", "relation", "exemplars", "num_exemplars", "hatched", "seed", "resolution", "initialiser")
    check_recipe(workdir, dataclasses.asdict(recipe) | {name: config[name] for name in of_config})
    sources = [(shown, recipe.word)]
    if recipe.prior_weight:
        sources.append((_own_pictures(sd, tokenizer, shown, config.initialiser, config), config.initialiser))
    # On the host, where batches are put together: a step then costs one transfer.
    encoded = jax.device_get(
        [
            (
                *batches.posterior(sd.params["vae"], sd.config.vae, own.images, 0.0),
                _conditions(sd, tokenizer, own, words),
            )
            for own, words in sources
        ]
    )

    def batch_fn(step):
        rng = np.random.default_rng([config.seed, step])
        parts = []
        for mean, std, states in encoded:
            chosen = rng.integers(len(mean), size=recipe.batch_size)
            parts.append(
                (mean[chosen], std[chosen], np.stack([states[i][rng.integers(len(states[i]))] for i in chosen]))
            )
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        return (*(np.concatenate(part) for part in zip(*parts, strict=True)), key)

    params = jax.tree.map(jnp.copy, sd.params["unet"])
    state = (params, _optimiser(recipe).init(params))
    step_fn = partial(_step, config=sd.config.unet, schedule=sd.schedule, recipe=recipe)
    return fit("dreambooth", state, step_fn, batch_fn, recipe.steps, workdir, recipe.checkpoints)[0]
