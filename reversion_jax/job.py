"""What a job is made of, loaded: a model, and the exemplars and settings of one run or of several in one program."""

import dataclasses
import functools
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reversion_jax import config as settings
from reversion_jax import files, parallel
from reversion_jax.checkpoints import Checkpoints
from reversion_jax.data import batches, exemplars
from reversion_jax.data.arrays import Data
from reversion_jax.diffusion import samplers
from reversion_jax.inversion import prompts, rows, step, words
from reversion_jax.miniature import scenes
from reversion_jax.tokenizer import Tokenizer
from reversion_jax.weights import folder
from reversion_jax.weights.resolve import resolve

PLACEHOLDERS = (prompts.RELATION, prompts.INVERSE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One of a job's runs: one relation, one method, one seed."""

    name: str  # its folder in the job's; "" for a run alone
    config: ConfigDict  # settled
    exemplars: exemplars.Exemplars


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that training needs, loaded: made by `prepare`."""

    config: ConfigDict  # settled; what all runs share
    runs: tuple[Run, ...]  # R of them, as in the arrays
    sd: folder.StableDiffusion
    tokenizer: Tokenizer
    data: Data
    hyper: step.Hyperparameters
    step_config: step.StepConfig
    first_rows: jax.Array  # [R, P, D]
    mesh: Mesh


def load_model(
    model: str, rows_per_token: Mapping[str, int], precision: str = "float32", mesh: Mesh | None = None
) -> tuple[folder.StableDiffusion, Tokenizer]:
    """A model by its folder, file or hub id, and a tokenizer that knows placeholders of so many rows each.

    The weights lie on the mesh's devices as `parallel.split` lays them; by default whole on all there are.
    """
    mesh = mesh or parallel.make_mesh(jax.device_count())
    put = functools.partial(parallel.split, mesh=mesh)
    sd = folder.load(resolve(model), dtype=jnp.dtype(precision), put=put)
    tokenizer = Tokenizer.load(
        sd.tokenizer_folder,
        rows_per_token,
        vocab_size=sd.config.text.vocab_size,
        length=sd.config.text.max_position_embeddings,
    )
    return sd, tokenizer


def load_exemplars(config: ConfigDict) -> exemplars.Exemplars:
    """The exemplar folder's pictures, or the miniature's drawings for `config.relation`."""
    if config.exemplars or config.model != settings.MINIATURE:
        if not files.place(config.exemplars).is_dir():
            raise ValueError(
                f"no folder of exemplars at {config.exemplars!r}: put 4-10 pictures and a text.json there, your own or "
                "the ReVersion Benchmark's (README.md says how), or give a folder by --config.exemplars=FOLDER"
            )
        check = prompts.inverse if config.inverse_share > 0 else prompts.direct
        return exemplars.read_folder(config.exemplars, config.resolution, check)
    drawn, templates = scenes.exemplars(config.relation, config.num_exemplars, config.seed, config.hatched)
    names = tuple(f"{i}.png" for i in range(len(drawn)))
    return exemplars.Exemplars(drawn.astype(np.float32) / 127.5 - 1, tuple(map(tuple, templates)), names)


def read_settings(path: epath.Path) -> dict:
    """A run's config.json; settings that there were not when it was written have their defaults."""
    return json.loads(settings.get_config().to_json()) | json.loads(path.read_text())


def load_rows(workdir: epath.Path) -> tuple[ConfigDict, jax.Array, int]:
    """A run's settled config, its newest rows [P, D] and their step. ValueError if nothing was trained there.

    Of several runs that were trained together each has its own folder in the job's.
    """
    config, name = _trained(workdir), ""
    if config is None and (together := _trained(workdir.parent)) and together.runs:
        config, name, workdir = together, workdir.name, workdir.parent
    if config is None:
        raise ValueError(
            f"no training run in {workdir}: train one by python -m reversion_jax.train --workdir {workdir}"
        )
    runs = settings.each_run(config) if config.runs else {"": config}
    if name not in runs:
        raise ValueError(
            f"{workdir} holds {len(runs)} runs: give the folder of one of them, such as {next(iter(runs))}"
        )
    width = folder.load_config(resolve(config.model)).text.hidden_size
    empty = jnp.zeros((len(runs), len(PLACEHOLDERS) * config.rows_per_token, width))
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore(step.init_state(empty, step.StepConfig(1, 1, 1, config.rows_per_token)))
    checkpoints.close()
    return runs[name], state.rows[list(runs).index(name)], int(state.step)


def _trained(workdir: epath.Path) -> ConfigDict | None:
    """The config of the job that keeps its checkpoints in `workdir`, if one does."""
    path = workdir / "config.json"
    return ConfigDict(read_settings(path)) if path.is_file() and (workdir / "checkpoints").is_dir() else None


def prepare(config: ConfigDict) -> Job:
    """Loads and computes, once, what the steps read. ValueError and OSError, one line each, for bad input."""
    # What is quickly read first: a wrong folder should not cost a download.
    samplers.get(config.sampler)
    runs = tuple(Run(name, own, load_exemplars(own)) for name, own in settings.each_run(config).items())
    lists = {name: words.load(config[name]) for name in ("prepositions", "verbs", "stop_words")}
    at_once = -(-len(runs) // -(-len(runs) // (config.runs_at_once or len(runs))))  # groups of much the same size
    mesh = parallel.make_mesh(at_once * config.batch_size, config.devices, config.weight_shards)
    placeholders = dict.fromkeys(PLACEHOLDERS, config.rows_per_token)
    sd, tokenizer = load_model(config.model, placeholders, config.precision, mesh)
    downscale = sd.config.vae.downscale * 2 ** (len(sd.config.unet.block_out_channels) - 1)
    if config.resolution % downscale:
        raise ValueError(f"config.resolution={config.resolution}: must be a multiple of {downscale} for this model")
    for name in ("prepositions", "verbs"):
        if len(lists[name]) < config.positives_per_sample:
            raise ValueError(
                f"config.{name}={config[name]!r} has {len(lists[name])} words, fewer than "
                f"config.positives_per_sample={config.positives_per_sample}"
            )
    inputs = [_inputs(run, sd, tokenizer, lists) for run in runs]
    data, hyper, first_rows = zip(*inputs, strict=True)
    static = step.StepConfig(
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        positives_per_sample=config.positives_per_sample,
        rows_per_token=config.rows_per_token,
        vocabulary_negatives=config.vocabulary_negatives_per_sample if config.negatives == "vocabulary" else 0,
        remat=config.remat,
        runs_at_once=at_once,
        blur_noisy_latents=any(h["latent_sigma"] for h in hyper),
        adam_b1=config.adam_b1,
        adam_b2=config.adam_b2,
        adam_eps=config.adam_eps,
    )
    hyper = step.Hyperparameters(
        **{
            name: jnp.array([h[name] for h in hyper], jnp.uint32 if name == "seed" else jnp.float32)
            for name in step.Hyperparameters._fields
        }
    )
    arrays = (batches.join_runs(data), hyper, jnp.stack(first_rows))
    data, hyper, first_rows = parallel.replicate(arrays, mesh)
    return Job(config, runs, sd, tokenizer, data, hyper, static, first_rows, mesh)


def _inputs(
    run: Run, sd: folder.StableDiffusion, tokenizer: Tokenizer, lists: Mapping[str, list[str]]
) -> tuple[Data, dict[str, float], jax.Array]:
    """A run's data (R = 1), hyperparameters and first rows [P, D]."""
    config = run.config
    in_pixels = config.suppressor_target == "pixels"
    try:
        data = batches.prepare_run(
            run.exemplars,
            tokenizer,
            sd.params["vae"],
            sd.config.vae,
            **lists,
            inverse=config.inverse_share > 0,
            steers_to_verbs=config.verb_weight > 0,
            sigma_px=config.suppressor_sigma_px if in_pixels else 0.0,
        )
        table = token_table(sd)
        initialiser = tokenizer.word_ids(config.initialiser)
        first_rows = rows.init(table, [initialiser] * len(PLACEHOLDERS), config.rows_per_token)
    except ValueError as error:
        raise ValueError(f"{run.name}: {error}" if run.name else error) from error
    hyper = {name: config[name] for name in step.Hyperparameters._fields if name in config}
    hyper["latent_sigma"] = 0.0 if in_pixels else config.suppressor_sigma_px / sd.config.vae.downscale
    return data, hyper, first_rows


def sampling(config: ConfigDict) -> dict:
    """A settled config's sampling settings, as `generate.draw` names them."""
    names = ("guidance_scale", "resolution", "sampler", "negative_prompt")
    of_config = {name: config[name] for name in names}
    return of_config | {"num_steps": config.sample_steps, "batch_size": config.sample_batch}


def token_table(sd: folder.StableDiffusion) -> jax.Array:
    """The frozen token embeddings, [V, D]."""
    return sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]


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
