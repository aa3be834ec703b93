"""DreamBooth (Ruiz et al., 2022, arXiv:2208.12242) on a relation's exemplars: the UNet learns, no word does.

    python -m reversion_jax.dreambooth --config configs/hug.py --workdir runs/hug-dreambooth
    python -m reversion_jax.sample --model runs/hug-dreambooth/model --prompt "otter sks teapot"

A further baseline of ReVersion's. The whole UNet is fine-tuned on prompts in which a rare word stands for the relation,
optionally beside pictures that the model itself drew of the same things without it (prior preservation). Takes the
config's model, exemplars, seed, resolution and sampling settings; its own are flags. The result is a model, of the
size of Stable Diffusion, not a word of a few kilobytes; it is left in diffusers' layout.
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

from reversion_jax import config as settings
from reversion_jax import files, generate, job
from reversion_jax.data import batches
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.errors import one_line, parse_flags
from reversion_jax.fit import fit
from reversion_jax.inversion import losses, prompts
from reversion_jax.models.unet import UNet, UNetConfig
from reversion_jax.tokenizer import Tokenizer
from reversion_jax.weights import folder


@dataclasses.dataclass(frozen=True)
class Recipe:
    """DreamBooth's own settings. The paper's rate, 5e-6, is Imagen's and Stable Diffusion's; the others are usual."""

    word: str = "sks"  # what stands for the relation: rare, so that it means little yet
    steps: int = 400
    batch_size: int = 4
    learning_rate: float = 5e-6
    weight_decay: float = 1e-2
    prior_weight: float = 0.0  # of the loss on the model's own pictures; 0: there are none
    checkpoints: int = 1  # on the way, each of three times the UNet's size


MINIATURE = Recipe(batch_size=8, learning_rate=2e-4)


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
        num_steps=config.sample_steps,
        guidance_scale=config.guidance_scale,
        resolution=config.resolution,
        sampler=config.sampler,
        batch_size=config.sample_batch,
        progress="prior",
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

    FloatingPointError if it diverges.
    """
    sources = [(shown, recipe.word)]
    if recipe.prior_weight:
        sources.append((_own_pictures(sd, tokenizer, shown, config.initialiser, config), config.initialiser))
    encoded = [
        (*batches.posterior(sd.params["vae"], sd.config.vae, own.images, 0.0), _conditions(sd, tokenizer, own, words))
        for own, words in sources
    ]

    def batch_fn(step):
        rng = np.random.default_rng([config.seed, step])
        parts = []
        for mean, std, states in encoded:
            chosen = rng.integers(len(mean), size=recipe.batch_size)
            parts.append(
                (mean[chosen], std[chosen], jnp.stack([states[i][rng.integers(len(states[i]))] for i in chosen]))
            )
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        return (*(jnp.concatenate(part) for part in zip(*parts, strict=True)), key)

    params = jax.tree.map(jnp.copy, sd.params["unet"])
    state = (params, _optimiser(recipe).init(params))
    step_fn = partial(_step, config=sd.config.unet, schedule=sd.schedule, recipe=recipe)
    return fit("dreambooth", state, step_fn, batch_fn, recipe.steps, workdir, recipe.checkpoints)[0]


@one_line
def main(argv) -> None:
    del argv
    from reversion_jax.compilation import keep_compiled

    keep_compiled()
    config = settings.settle(_CONFIG.value)
    base = MINIATURE if config.model == settings.MINIATURE else Recipe()
    recipe = dataclasses.replace(base, **{name: f.value for name, f in _RECIPE.items() if f.value is not None})
    workdir = files.place(_WORKDIR.value or f"runs/{config.relation}-dreambooth")
    shown = job.load_exemplars(config)
    sd, tokenizer = job.load_model(config.model, {})
    unet = train(config, recipe, sd, tokenizer, shown, workdir)
    model = sd._replace(params={**sd.params, "unet": unet})
    folder.save(workdir / "model", model, dtype=np.float32)
    print(f'{workdir / "model"} draws the relation as "{recipe.word}": sample --model {workdir / "model"}')


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "A training config, such as configs/hug.py.", lock_config=True
    )
    _WORKDIR = flags.DEFINE_string("workdir", None, "Where the model goes; runs/<relation>-dreambooth by default.")
    _RECIPE = {
        "word": flags.DEFINE_string("word", None, "What stands for the relation in prompts; sks."),
        "steps": flags.DEFINE_integer("steps", None, "400.", lower_bound=1),
        "batch_size": flags.DEFINE_integer("batch_size", None, "4 (miniature: 8).", lower_bound=1),
        "learning_rate": flags.DEFINE_float("learning_rate", None, "5e-6 (miniature: 2e-4).", lower_bound=0),
        "prior_weight": flags.DEFINE_float(
            "prior_weight", None, "Of the loss on pictures that the model drew itself; 0: none.", lower_bound=0
        ),
    }
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
