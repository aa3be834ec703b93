"""What a run is made of: its model, exemplars and settings, loaded; and how to look at its rows and draw with them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from reversion_jax import config as settings
from reversion_jax import generate, parallel
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
class Job:
    """Everything a run needs, loaded: made by `prepare`."""

    config: ConfigDict  # settled
    sd: folder.StableDiffusion
    tokenizer: Tokenizer
    exemplars: exemplars.Exemplars
    data: Data
    hyper: step.Hyperparameters
    step_config: step.StepConfig
    first_rows: jax.Array  # [1, P, D]
    mesh: Mesh


def load_model(
    model: str, rows_per_token: Mapping[str, int], precision: str = "float32", mesh: Mesh | None = None
) -> tuple[folder.StableDiffusion, Tokenizer]:
    """A model by its folder, file or hub id, and a tokenizer that knows placeholders of so many rows each.

    The weights are whole on each of the mesh's devices; by default on all there are.
    """
    sd = folder.load(resolve(model), dtype=jnp.dtype(precision))
    mesh = mesh or parallel.make_mesh(jax.device_count())
    sd = sd._replace(params=parallel.replicate(sd.params, mesh))
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
        if not Path(config.exemplars).is_dir():
            raise ValueError(
                f"no folder of exemplars at {config.exemplars!r}: put 4-10 pictures and a text.json there, your own or "
                "the ReVersion Benchmark's (README.md says how), or give a folder by --config.exemplars=FOLDER"
            )
        check = prompts.inverse if config.inverse_share > 0 else prompts.direct
        return exemplars.read_folder(config.exemplars, config.resolution, check)
    drawn, templates = scenes.exemplars(config.relation, config.num_exemplars, config.seed)
    names = tuple(f"{i}.png" for i in range(len(drawn)))
    return exemplars.Exemplars(drawn.astype(np.float32) / 127.5 - 1, tuple(map(tuple, templates)), names)


def read_settings(path: Path) -> dict:
    """A run's config.json; settings that there were not when it was written have their defaults."""
    return json.loads(settings.get_config().to_json()) | json.loads(path.read_text())


def load_rows(workdir: Path) -> tuple[ConfigDict, jax.Array, int]:
    """A run's settled config, its newest rows [P, D] and their step. ValueError if nothing was trained there."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(
            f"no training run in {workdir}: train one by python -m reversion_jax.train --workdir {workdir}"
        )
    config = ConfigDict(read_settings(path))
    width = folder.load_config(resolve(config.model)).text.hidden_size
    empty = jnp.zeros((1, len(PLACEHOLDERS) * config.rows_per_token, width))
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore(step.init_state(empty, step.StepConfig(1, 1, 1, config.rows_per_token)))
    checkpoints.close()
    return config, state.rows[0], int(state.step)


def prepare(config: ConfigDict) -> Job:
    """Loads and computes, once, what the steps read. ValueError and OSError, one line each, for bad input."""
    # What is quickly read first: a wrong folder should not cost a download.
    samplers.get(config.sampler)
    shown = load_exemplars(config)
    lists = {name: words.load(config[name]) for name in ("prepositions", "verbs", "stop_words")}
    placeholders = dict.fromkeys(PLACEHOLDERS, config.rows_per_token)
    mesh = parallel.make_mesh(config.batch_size, config.devices)
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
    in_pixels = config.suppressor_target == "pixels"
    data = batches.prepare_run(
        shown,
        tokenizer,
        sd.params["vae"],
        sd.config.vae,
        **lists,
        inverse=config.inverse_share > 0,
        steers_to_verbs=config.verb_weight > 0,
        sigma_px=config.suppressor_sigma_px if in_pixels else 0.0,
    )
    table = sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    initialiser = tokenizer.word_ids(config.initialiser)
    first_rows = rows.init(table, [initialiser] * len(PLACEHOLDERS), config.rows_per_token)
    of_run = {name: config[name] for name in step.Hyperparameters._fields if name in config}
    of_run["latent_sigma"] = 0.0 if in_pixels else config.suppressor_sigma_px / sd.config.vae.downscale
    of_run = {name: jnp.array([value], jnp.uint32 if name == "seed" else jnp.float32) for name, value in of_run.items()}
    static = step.StepConfig(
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        positives_per_sample=config.positives_per_sample,
        rows_per_token=config.rows_per_token,
        vocabulary_negatives=config.vocabulary_negatives_per_sample if config.negatives == "vocabulary" else 0,
        remat=config.remat,
        blur_noisy_latents=not in_pixels and config.suppressor_sigma_px > 0,
        adam_b1=config.adam_b1,
        adam_b2=config.adam_b2,
        adam_eps=config.adam_eps,
    )
    hyper = step.Hyperparameters(**of_run)
    data, hyper, first_rows = parallel.replicate((data, hyper, first_rows[None]), mesh)
    return Job(config, sd, tokenizer, shown, data, hyper, static, first_rows, mesh)


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


def describe(job: Job) -> str:
    """What was loaded and what will be done, for people."""
    c = job.config
    pairs = f"{len(job.exemplars.images)} exemplars at {c.resolution} px" + (
        f", low-passed with sigma {c.suppressor_sigma_px:g} px" if c.suppressor_sigma_px else ""
    )
    first = job.exemplars.templates[0][0]
    lines = [
        f"model       {c.model}, {sum(x.size for x in jax.tree.leaves(job.sd.params)):,} frozen numbers",
        f"exemplars   {c.exemplars or 'drawn by the miniature'}: {pairs}",
        f"prompts     {prompts.direct(first)!r}"
        + (f" and, for {c.inverse_share:.0%}, {prompts.inverse(first)!r}" if c.inverse_share else ""),
        f"learns      {job.first_rows[0].size:,} numbers: {c.rows_per_token} row(s) each of <R> and <R-inv>, from"
        f" {c.initialiser!r}" + ("" if c.inverse_share else " (<R-inv> stays as it is)"),
        f"method      {c.method}: {c.steps} steps of {c.batch_size} x {c.accumulation} samples, "
        f"rate {c.learning_rate:g}, control {c.control_weight:g} ({c.verb_weight:g} verbs), "
        f"importance {c.importance:g}, seed {c.seed}",
        f"device      {jax.devices()[0].device_kind}" + _shares(job),
    ]
    return "\n".join(lines)


def _shares(job: Job) -> str:
    used, there = job.mesh.size, jax.device_count()
    shares = f", {used} of {there}: each has {job.config.batch_size // used} of batch_size={job.config.batch_size}"
    return shares if there > 1 else ""


def preview_prompts(config: ConfigDict) -> list[str]:
    """The fixed prompts of previews and contact sheet; on the miniature, pairs that no exemplar shows."""
    if config.model == settings.MINIATURE:
        relation = config.relation if config.relation in scenes.RELATIONS else "beside"  # only the pairs matter
        return [
            f"{scene.subject} {prompts.RELATION} {scene.object}"
            for scene in scenes.unseen_scenes(relation, 16, config.preview_seed)
        ]
    return list(config.preview_prompts)


def draw(
    job: Job, texts: list[str], learned: jax.Array, label: str | None = None, seed: int | None = None
) -> np.ndarray:
    """Images uint8 of the prompts with rows [P, D], at the config's sampling settings; the i-th has seed + i."""
    c = job.config
    seed = c.preview_seed if seed is None else seed
    images = generate.draw(
        job.sd,
        job.tokenizer,
        texts,
        [seed + i for i in range(len(texts))],
        learned,
        num_steps=c.sample_steps,
        guidance_scale=c.guidance_scale,
        resolution=c.resolution,
        sampler=c.sampler,
        negative_prompt=c.negative_prompt,
        batch_size=c.sample_batch,
        progress=label,
    )
    return generate.to_uint8(images)


def look(job: Job, learned: jax.Array, top: int = 10) -> dict:
    """Where <R>'s first row stands: norm, distance from its start, nearest words with their cosines."""
    table = job.sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    row, first = learned[0, 0], job.first_rows[0, 0]
    ids, cosines = rows.nearest(row, table, top)
    names = job.tokenizer.ids_to_words(np.asarray(ids).tolist())
    return {
        "norm": float(jnp.linalg.norm(row)),
        "distance": float(jnp.linalg.norm(row - first)),
        "nearest": [[name, round(float(c), 4)] for name, c in zip(names, cosines, strict=True)],
    }
