"""DreamBooth (Ruiz et al., 2022, arXiv:2208.12242) on a relation's exemplars: the UNet learns, no word does.

A further baseline of ReVersion's. The whole UNet is fine-tuned on prompts in which a rare word stands for the relation,
optionally beside pictures that the model itself drew of the same things without it (prior preservation).
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
from reversion_jax.drawing import generate
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
    """DreamBooth's own settings. The rate is the paper's for Stable Diffusion; the others are our guesses."""

    word: str = "sks"  # what stands for the relation: rare, so that it means little yet
    steps: int = 400
    batch_size: int = 4
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    prior_weight: float = 0.0  # of the loss on the model's own pictures; 0: there are none
    checkpoints: int = 4  # each of three times the UNet's size


def _conditions(sd: folder.StableDiffusion, tokenizer: Tokenizer, shown: Exemplars, words: str) -> list[jax.Array]:
    """Text states [K, L, D] of each exemplar's templates, with `words` for the relation."""
    none = jnp.zeros((0, sd.config.text.hidden_size))
    encode = partial(generate.encode_text, sd.params, sd.config)
    return [encode(tokenizer([prompt.natural(words) for prompt in own]), none) for own in shown.templates]


def _own_pictures(
    sd: folder.StableDiffusion, tokenizer: Tokenizer, shown: Exemplars, words: str, config: Settings
) -> Exemplars:
    """A picture of every template, as the model draws it before it has learned anything."""
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
    """The UNet's denoising loss on a batch (mean, std [M, H, W, C], text states [M, L, D], key); eq. 2 of the paper.

    The first `recipe.batch_size` samples are of exemplars, the others the model's own.
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


@functools.cache  # an evaluation fine-tunes many models by the same program
def _step_fn(config: UNetConfig, schedule: Schedule, recipe: Recipe) -> Callable[[Any, Any], tuple[Any, dict]]:
    """The step of `fit`, compiled once for each recipe."""

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
    """The UNet's weights, fine-tuned on the exemplars; it goes on from what an earlier, stopped run left in `workdir`.

    ValueError where that is a run of other settings; FloatingPointError if it diverges.
    """
    of_config = ("model", "relation", "exemplars", "num_exemplars", "hatched", "seed", "resolution", "initialiser")
    # Settings that runs before version 0.3 did not have count only where they are used.
    newer = ("vae", "ema", "prediction_type", "clip_skip", "height", "width", "resize")
    used = [name for name in newer if getattr(config, name) != getattr(Settings, name)]
    check_recipe(workdir, dataclasses.asdict(recipe) | {name: getattr(config, name) for name in (*of_config, *used)})
    sources = [(shown, recipe.word)]
    if recipe.prior_weight:
        sources.append((_own_pictures(sd, tokenizer, shown, config.initialiser, config), config.initialiser))
    # On the host, where batches are put together: a step then costs one transfer.
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
    """Fine-tunes the config's model, writes it to WORKDIR/model, and returns how to draw with it.

    own: values of `Recipe`; what they leave open is what suits the model. ValueError, OSError.
    """
    if config.runs:
        raise ValueError("DreamBooth makes one model of one relation: give a config without runs")
    if files.is_remote(workdir or ""):
        raise ValueError(f"--workdir={workdir}: a model is written to a folder of this machine")
    c = settle(config)
    recipe = dataclasses.replace(Recipe(), **own_settings.read_dreambooth(c.model) | own)
    place = Path(workdir or f"runs/{c.relation}-dreambooth").expanduser()
    with owned(epath.Path(place)):
        shown = load_exemplars(c)
        # The UNet learns, for which bfloat16 is too coarse.
        sd, tokenizer, _ = load_model(c.model, precision="tensorfloat32", variant=Variant.of(c))
        unet = train(c, recipe, sd, tokenizer, shown, place)
        save(place / "model", sd._replace(params={**sd.params, "unet": unet}), dtype=np.float32)
    how = f"--resolution {c.resolution} --steps {c.sample_steps} --guidance_scale {c.guidance_scale}"
    return f'draw with it: python -m reversion_jax.sample --model {place / "model"} {how} --prompt "A {recipe.word} B"'
