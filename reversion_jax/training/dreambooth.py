"""DreamBooth (Ruiz et al., 2022, arXiv:2208.12242) on a relation's exemplars: trains the UNet instead of a word.

ReVersion uses DreamBooth as a baseline. DreamBooth fine-tunes the whole UNet on prompts in which a rare word means the
relation. Optionally, DreamBooth also trains on pictures that the original model draws of the same things without the
rare word (prior preservation).
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict

from reversion_jax.config import Settings
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.drawing import generate, texts
from reversion_jax.inversion import losses
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.unet import UNet, UNetConfig
from reversion_jax.runs.owner import owned
from reversion_jax.runtime import files
from reversion_jax.training import inputs
from reversion_jax.training.fit import check_recipe, fit, gradient_step
from reversion_jax.training.prepare import load_exemplars, settle
from reversion_jax.weights import folder, own_settings
from reversion_jax.weights.load import load_model
from reversion_jax.weights.save import save
from reversion_jax.weights.variant import Variant


@dataclasses.dataclass(frozen=True)
class Recipe:
    """DreamBooth's settings. The learning rate is the paper's for Stable Diffusion; other values are our guesses."""

    word: str = "sks"  # a rare word for the relation, which has little meaning before training
    steps: int = 400
    batch_size: int = 4
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    prior_weight: float = 0.0  # weight of the loss on the original model's pictures; 0: no such pictures are drawn
    checkpoints: int = 4  # number of checkpoints in a training; a checkpoint is three times as large as the UNet


def _conditions(sd: folder.StableDiffusion, tokenizer: Tokenizer, shown: Exemplars, words: str) -> list[jax.Array]:
    """Returns the text states [K, L, D] of each exemplar's K prompts, which name the relation by `words`."""
    none = jnp.zeros((0, sd.config.text.hidden_size))
    encode = partial(texts.encode_text, sd.params, sd.config)
    return [encode(tokenizer([prompt.natural(words) for prompt in own]), none) for own in shown.templates]


def _own_pictures(
    sd: folder.StableDiffusion, tokenizer: Tokenizer, shown: Exemplars, words: str, config: Settings
) -> Exemplars:
    """Draws one picture for each prompt with the original model. The prompts name the relation by `words`."""
    templates = [prompt for own in shown.templates for prompt in own]
    images = generate.draw(
        sd,
        tokenizer,
        [prompt.natural(words) for prompt in templates],
        [config.seed + i for i in range(len(templates))],
        sampling=generate.Sampling.of(config),
        progress="prior",
    )
    return Exemplars(images, tuple((prompt,) for prompt in templates), ())


def loss(params: Any, batch: Any, config: UNetConfig, schedule: Schedule, recipe: Recipe) -> jax.Array:
    """Returns the UNet's denoising loss, a scalar, on a batch of M samples; Eq. 2 of the DreamBooth paper.

    batch: mean and std of the posterior [M, H, W, C], text states [M, L, D], and a key. The first `recipe.batch_size`
    samples are exemplars. The other samples are the original model's pictures, whose loss is multiplied by
    `recipe.prior_weight`.
    """
    mean, std, states, key = batch
    keys = jax.random.split(key, 3)
    clean = mean + std * jax.random.normal(keys[0], mean.shape)
    noise = jax.random.normal(keys[1], mean.shape)
    timesteps = jax.random.randint(keys[2], mean.shape[:1], 0, schedule.num_train_timesteps)
    predict = nn.apply(UNet.__call__, UNet(config))
    predicted = predict({"params": params}, schedule.add_noise(clean, noise, timesteps), timesteps, states)
    error = losses.denoising(predicted, schedule.training_target(clean, noise, timesteps))
    weights = jnp.where(jnp.arange(len(mean)) < recipe.batch_size, 1.0, recipe.prior_weight)
    return jnp.sum(weights * error) / recipe.batch_size


def _optimiser(recipe: Recipe) -> optax.GradientTransformation:
    return optax.adamw(recipe.learning_rate, weight_decay=recipe.weight_decay)


@functools.cache  # so that an evaluation, which fine-tunes many models, compiles once
def _step_fn(config: UNetConfig, schedule: Schedule, recipe: Recipe) -> Callable[[Any, Any], tuple[Any, dict]]:
    """Returns the `step_fn` for `fit`, which is compiled once for each recipe."""

    def loss_fn(params: Any, *batch: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        value = loss(params, batch, config, schedule, recipe)
        return value, {"loss": value}

    return gradient_step(loss_fn, _optimiser(recipe))


def train(
    config: Settings,
    recipe: Recipe,
    sd: folder.StableDiffusion,
    tokenizer: Tokenizer,
    shown: Exemplars,
    workdir: epath.PathLike,
) -> Any:
    """Fine-tunes the UNet on the exemplars and returns the UNet's weights. Resumes a stopped training in `workdir`.

    Raises ValueError if `workdir` holds a training with other settings, and FloatingPointError if training diverges.
    """
    of_config = ("model", "relation", "exemplars", "num_exemplars", "hatched", "seed", "resolution", "initialiser")
    # The recipe.json of versions before 0.3 lacks these settings, so only values that are not the default are compared.
    newer = ("vae", "ema", "prediction_type", "clip_skip", "height", "width", "resize")
    used = [name for name in newer if getattr(config, name) != getattr(Settings, name)]
    check_recipe(workdir, dataclasses.asdict(recipe) | {name: getattr(config, name) for name in (*of_config, *used)})
    sources = [(shown, recipe.word)]
    if recipe.prior_weight:
        sources.append((_own_pictures(sd, tokenizer, shown, config.initialiser, config), config.initialiser))
    # The batches are assembled on the host, so that each step transfers data to the device only once.
    encoded = jax.device_get(
        [
            (
                *inputs.posterior(sd.params["vae"], sd.config.vae, own.images, 0.0),
                _conditions(sd, tokenizer, own, words),
            )
            for own, words in sources
        ]
    )

    def batch_fn(step: int) -> tuple[np.ndarray | jax.Array, ...]:
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
    step_fn = _step_fn(sd.config.unet, sd.schedule, recipe)
    return fit("dreambooth", state, step_fn, batch_fn, recipe.steps, workdir, recipe.checkpoints)[0]


def make_model(config: ConfigDict, workdir: epath.PathLike | None, **own: Any) -> str:
    """Fine-tunes the config's model, writes it to WORKDIR/model, and returns the command that draws with it, as text.

    own: values of `Recipe`; missing values come from the model's folder, or else from `Recipe`'s defaults.
    Raises ValueError or OSError for bad input.
    """
    if config.runs:
        raise ValueError("DreamBooth makes one model of one relation: give a config without runs")
    if files.is_remote(workdir or ""):
        raise ValueError(f"--workdir={workdir}: DreamBooth needs a folder of this machine, to write the model into")
    c = settle(config)
    recipe = dataclasses.replace(Recipe(), **own_settings.read_dreambooth(c.model) | own)
    place = Path(workdir or f"runs/{c.relation}-dreambooth").expanduser()
    with owned(epath.Path(place)):
        shown = load_exemplars(c)
        # bfloat16 is too coarse for the small updates of the UNet's weights.
        sd, tokenizer, _ = load_model(c.model, precision="tensorfloat32", variant=Variant.of(c))
        unet = train(c, recipe, sd, tokenizer, shown, place)
        save(place / "model", sd._replace(params={**sd.params, "unet": unet}), dtype=np.float32)
    how = f"--resolution {c.resolution} --steps {c.sample_steps} --guidance_scale {c.guidance_scale}"
    return f'draw with it: python -m reversion_jax.sample --model {place / "model"} {how} --prompt "A {recipe.word} B"'
