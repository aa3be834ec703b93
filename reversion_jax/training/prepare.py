"""Prepares training: exemplars, model and settings become what the steps read."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.data import benchmark, exemplars
from reversion_jax.diffusion import samplers
from reversion_jax.inversion import rows, step, words
from reversion_jax.inversion.arrays import Data
from reversion_jax.inversion.draws import Hyperparameters, StepConfig
from reversion_jax.inversion.prompts import PLACEHOLDERS, RELATION
from reversion_jax.miniature import scenes
from reversion_jax.models.clip import token_table
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runtime import files, parallel
from reversion_jax.training import inputs
from reversion_jax.weights import embeddings, folder, own_settings
from reversion_jax.weights.fingerprint import fingerprint
from reversion_jax.weights.load import load_model
from reversion_jax.weights.resolve import read_config, resolve
from reversion_jax.weights.variant import Variant

_PREVIEWS = 8  # of a model without preview prompts of its own
_PACKAGES = ("reversion_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
    """One of a job's runs: one relation, one method, one seed."""

    name: str  # its folder in the job's; "" for a run alone
    config: Settings
    exemplars: exemplars.Exemplars


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that training needs, loaded: made by `prepare`."""

    config: Settings  # what all runs share
    runs: tuple[Run, ...]  # R of them, as in the arrays
    sd: folder.StableDiffusion
    tokenizer: Tokenizer
    data: Data
    hyper: Hyperparameters
    step_config: StepConfig
    first_rows: jax.Array  # [R, P, D]
    mesh: Mesh


def settle(config: ConfigDict | Settings) -> Settings:
    """The config's settings, what it leaves open being the model's own. ValueError, one line."""
    return settings.settle(config, own_settings.read(config.model))


def load_exemplars(config: Settings) -> exemplars.Exemplars:
    """The exemplar folder's pictures, or drawn scenes of `config.relation`. ValueError, OSError."""
    if config.exemplars == settings.DRAWN:
        return scenes.as_exemplars(
            config.relation, config.num_exemplars, config.seed, config.size, hatched=config.hatched
        )
    folder = files.place(config.exemplars)
    if not folder.is_dir():
        raise ValueError(
            f"no folder of exemplars at {config.exemplars!r}: put 4-10 pictures and a text.json there, your own or "
            "the ReVersion Benchmark's (README.md says how), or give a folder by --config.exemplars=FOLDER"
        )
    return exemplars.read_folder(folder, config.size, invertible=config.inverse_share > 0, resize=config.resize)


def preview_prompts(config: Settings, shown: exemplars.Exemplars) -> tuple[str, ...]:
    """The prompts of previews: the config's; or some of ours for the relation; or the exemplars' own."""
    if config.preview_prompts is not None:
        return config.preview_prompts
    ours = benchmark.read_prompts().get(config.relation)
    if ours is None:
        return tuple(prompts[0].direct() for prompts in shown.templates[:_PREVIEWS])
    # Subject-major, 10 subjects by 10 objects: steps of 11 change both.
    return tuple(template.replace("{}", RELATION) for template in ours[::11][:_PREVIEWS])


def prepare(config: Settings) -> Job:
    """Loads and computes, once, what the steps read. ValueError and OSError, one line each, for bad input."""
    # What is quickly read comes first: a wrong folder should not cost a download.
    samplers.get(config.sampler)
    runs = tuple(_load_run(name, own) for name, own in settings.each_run(config).items())
    lists = {name: words.load(getattr(config, name)) for name in ("prepositions", "verbs", "stop_words")}
    given = {run.config.initialiser: _learned(run.config.initialiser) for run in runs}
    sizes = read_config(config.model)
    _check_sizes(config, sizes, lists)
    for own in filter(None, given.values()):
        _check_first(config, own, sizes)
    at_once = -(-len(runs) // -(-len(runs) // (config.runs_at_once or len(runs))))  # groups of much the same size
    mesh = parallel.make_mesh(at_once * config.batch_size, config.devices, config.weight_shards)
    placeholders = dict.fromkeys(PLACEHOLDERS, config.rows_per_token)
    sd, tokenizer, _ = load_model(config.model, placeholders, config.precision, mesh, Variant.of(config))
    prepared = [_inputs(run, sd, tokenizer, lists, given[run.config.initialiser]) for run in runs]
    data, hypers, first_rows = zip(*prepared, strict=True)
    static = StepConfig(
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        positives_per_sample=config.positives_per_sample,
        rows_per_token=config.rows_per_token,
        vocabulary_negatives=config.vocabulary_negatives_per_sample if config.negatives == "vocabulary" else 0,
        remat=config.remat,
        runs_at_once=at_once,
        blur_noisy_latents=any(h["latent_sigma"] for h in hypers),
        adam_b1=config.adam_b1,
        adam_b2=config.adam_b2,
        adam_eps=config.adam_eps,
    )
    hyper = Hyperparameters(
        **{
            name: jnp.array([h[name] for h in hypers], jnp.uint32 if name == "seed" else jnp.float32)
            for name in Hyperparameters._fields
        }
    )
    arrays = (inputs.join_runs(data), hyper, jnp.stack(first_rows))
    placed, hyper, first = parallel.replicate(arrays, mesh)
    return Job(config, runs, sd, tokenizer, placed, hyper, static, first, mesh)


def _load_run(name: str, config: Settings) -> Run:
    shown = load_exemplars(config)
    return Run(name, dataclasses.replace(config, preview_prompts=preview_prompts(config, shown)), shown)


def _check_sizes(config: Settings, sizes: ModelConfig, lists: Mapping[str, Sequence[str]]) -> None:
    downscale = sizes.vae.downscale * 2 ** (len(sizes.unet.block_out_channels) - 1)
    for name, pixels in zip(("height", "width"), config.size, strict=True):
        if pixels % downscale:
            name = name if getattr(config, name) else "resolution"
            raise ValueError(f"config.{name}={pixels}: must be a multiple of {downscale} for this model")
    for name in ("prepositions", "verbs"):
        if len(lists[name]) < config.positives_per_sample:
            raise ValueError(
                f"config.{name}={getattr(config, name)!r} has {len(lists[name])} words, fewer than "
                f"config.positives_per_sample={config.positives_per_sample}"
            )


def _learned(initialiser: str) -> Mapping[str, np.ndarray] | None:
    """The words of an embedding file that a run goes on from; None for a word. ValueError, OSError."""
    if Path(initialiser).suffix not in embeddings.SUFFIXES:
        return None
    found = embeddings.read(files.place(initialiser))
    if RELATION in found:
        return found
    if len(found) > 1:
        raise ValueError(f"{initialiser} holds {', '.join(found)}: give a file with one word, or with {RELATION}")
    return {RELATION: next(iter(found.values()))}


def _check_first(config: Settings, given: Mapping[str, np.ndarray], sizes: ModelConfig) -> None:
    """ValueError unless an embedding file's rows have the shape of those that go on from it."""
    wanted = (config.rows_per_token, sizes.text.hidden_size)
    for own in given.values():
        if own.shape != wanted:
            raise ValueError(
                f"config.initialiser={config.initialiser!r} has rows of shape {list(own.shape)}, where config."
                f"rows_per_token={wanted[0]} and the model want {list(wanted)}"
            )


def _first_rows(config: Settings, given: Mapping[str, np.ndarray] | None, sd: Any, tokenizer: Tokenizer) -> jax.Array:
    """The rows [P, D] that a run starts from: the initialiser's of each token, or a file's. ValueError."""
    if given is None:
        words = [tokenizer.word_ids(config.initialiser)] * len(PLACEHOLDERS)
        return rows.init(token_table(sd.params), words, config.rows_per_token)
    return jnp.concatenate([jnp.asarray(given.get(token, given[RELATION])) for token in PLACEHOLDERS])


def _inputs(
    run: Run,
    sd: folder.StableDiffusion,
    tokenizer: Tokenizer,
    lists: Mapping[str, Sequence[str]],
    given: Mapping[str, np.ndarray] | None,
) -> tuple[Data, dict[str, float], jax.Array]:
    """A run's data (R = 1), hyperparameters and first rows [P, D]; `given`: those that it goes on from."""
    config = run.config
    in_pixels = config.suppressor_target == "pixels"
    try:
        data = inputs.prepare_run(
            run.exemplars,
            tokenizer,
            sd.params["vae"],
            sd.config.vae,
            **lists,
            inverse=config.inverse_share > 0,
            steers_to_verbs=config.verb_weight > 0,
            sigma_px=config.suppressor_sigma_px if in_pixels else 0.0,
        )
        first_rows = _first_rows(config, given, sd, tokenizer)
    except ValueError as error:
        raise ValueError(f"{run.name}: {error}" if run.name else error) from error
    hyper = {name: getattr(config, name) for name in Hyperparameters._fields if hasattr(config, name)}
    hyper["latent_sigma"] = 0.0 if in_pixels else config.suppressor_sigma_px / sd.config.vae.downscale
    return data, hyper, first_rows


def origin(job: Job) -> dict[str, Any]:
    """Where the job's words come from: the base model and its hash, versions, device."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "model": job.config.model,
        "model_hash": fingerprint(resolve(job.config.model)),
        "versions": {"python": platform.python_version(), **versions},
        "device": jax.devices()[0].device_kind,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # as this package, where it runs from a checkout


def first_state(job: Job) -> step.State:
    """The state before the first step, on the job's devices."""
    return parallel.replicate(step.init_state(job.first_rows, job.step_config), job.mesh)


def advance(job: Job, state: step.State, count: int, capacity: int) -> tuple[step.State, step.Metrics]:
    """`count` steps of the job in one dispatch, see `step.train_steps`; the state given is used up."""
    return step.train_steps(
        state,
        jnp.int32(count),
        job.sd.params,
        job.data,
        job.hyper,
        model=job.sd.config,
        schedule=job.sd.schedule,
        config=job.step_config,
        capacity=capacity,
        mesh=job.mesh,
    )
