"""Prepares training: loads the exemplars and the model, and computes the arrays that the training steps read."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
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
from reversion_jax.drawing.generate import Sampling
from reversion_jax.inversion import rows, step, words
from reversion_jax.inversion.arrays import Data
from reversion_jax.inversion.draws import Hyperparameters, StepConfig
from reversion_jax.inversion.prompts import PLACEHOLDERS, RELATION
from reversion_jax.miniature import scenes
from reversion_jax.models.clip import token_table
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runtime import files, parallel, precision
from reversion_jax.runtime.timeline import Timeline
from reversion_jax.training import ahead, checks, inputs, memory
from reversion_jax.weights import embeddings, folder, own_settings
from reversion_jax.weights.load import open_model, read_weights
from reversion_jax.weights.resolve import read_config
from reversion_jax.weights.variant import Variant

_LARGE = 3e8  # a model with more weights is slow on a CPU; Stable Diffusion 1.5 has 1.1e9 weights
_PREVIEWS = 8  # number of preview prompts, if neither the config nor the model's folder sets them


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a job: one relation, one method, one seed."""

    name: str  # the run's folder in the job's folder; "" if the job has only one run
    config: Settings
    exemplars: exemplars.Exemplars


@dataclasses.dataclass(frozen=True)
class Job:
    """One or more runs that one compiled function trains, and all data that training needs. See `prepare`."""

    config: Settings  # the settings that all runs share
    runs: tuple[Run, ...]  # the R runs, in the order of the arrays' runs axis
    sd: folder.StableDiffusion
    tokenizer: Tokenizer
    data: Data
    hyper: Hyperparameters
    step_config: StepConfig
    first_rows: jax.Array  # [R, P, D]
    mesh: Mesh
    is_slow: bool  # a step takes seconds, as for Stable Diffusion on a CPU, so each call of `advance` makes one step
    # Done when the programs for the step and for the previews are compiled; None: the first call compiles them.
    step_compiled: "Future[Any] | None" = None
    drawing_compiled: "Future[Any] | None" = None


def settle(config: ConfigDict | Settings) -> Settings:
    """Completes the config: the model sets the open settings, and the device sets the precision if it is "auto".

    Raises ValueError if a setting is not valid.
    """
    settled = settings.settle(config, own_settings.read(config.model))
    return dataclasses.replace(settled, precision=precision.choose(settled.precision))


def load_exemplars(config: Settings) -> exemplars.Exemplars:
    """Reads the exemplar folder, or draws scenes of `config.relation`. Raises ValueError or OSError for bad input."""
    if config.exemplars == settings.DRAWN:
        return scenes.as_exemplars(
            config.relation, config.num_exemplars, config.seed, config.size, hatched=config.hatched
        )
    folder = files.place(config.exemplars)
    if not folder.is_dir():
        raise ValueError(
            f"no folder of exemplars at {config.exemplars!r}: put 4-10 pictures and a text.json there, your own or "
            "the ReVersion Benchmark's (README.md explains how), or give another folder by --config.exemplars=FOLDER"
        )
    return exemplars.read_folder(folder, config.size, invertible=config.inverse_share > 0, resize=config.resize)


def preview_prompts(config: Settings, shown: exemplars.Exemplars) -> tuple[str, ...]:
    """Returns preview prompts: the config's, or else our own for the relation, or else the exemplars' prompts."""
    if config.preview_prompts is not None:
        return config.preview_prompts
    ours = benchmark.read_prompts().get(config.relation)
    if ours is None:
        return tuple(prompts[0].direct() for prompts in shown.templates[:_PREVIEWS])
    # `ours` has prompts for 10 subjects with 10 objects each. Every 11th prompt has a new subject and a new object.
    return tuple(template.replace("{}", RELATION) for template in ours[::11][:_PREVIEWS])


def prepare(config: Settings, *, compile_ahead: bool = False, timeline: Timeline | None = None) -> Job:
    """Loads and computes everything that the training steps read.

    config: the result of `settle`.
    compile_ahead: whether to compile the step and the drawing of previews while the weights are read. The step is
    compiled for calls of `advance` with the capacity config.steps_per_dispatch. timeline: gets the parts of this work.
    Raises ValueError or OSError for bad input.
    """
    timeline = timeline or Timeline()
    # Check first what can be read quickly, so that a wrong folder is found before a model is downloaded.
    samplers.check(config.sampler)
    with timeline.part("read the exemplars"):
        runs = tuple(_load_run(name, own) for name, own in settings.each_run(config).items())
    lists = {name: words.load(getattr(config, name)) for name in ("prepositions", "verbs", "stop_words")}
    given = {run.config.initialiser: embeddings.initial_words(run.config.initialiser) for run in runs}
    sizes = read_config(config.model)
    checks.check_sizes(config, sizes, lists)
    for own in filter(None, given.values()):
        checks.check_first_rows(config, own, sizes)
    config = dataclasses.replace(config, samples_at_once=memory.samples_at_once(config, sizes, len(runs)))
    mesh = parallel.make_mesh(config.samples_at_once, config.devices, config.weight_shards)
    placeholders = dict.fromkeys(PLACEHOLDERS, config.rows_per_token)
    with timeline.part("open the model"):
        opened, tokenizer = open_model(config.model, placeholders, Variant.of(config))
    with timeline.part("read the prompts"):
        texts = [_texts(run, opened.config, tokenizer, lists) for run in runs]
    hyper = inputs.hyperparameters([run.config for run in runs], opened.config)
    static = inputs.step_config(config, bool(hyper.latent_sigma.any()))
    is_slow = mesh.devices.flat[0].platform == "cpu" and memory.numbers(opened.config) > _LARGE
    the_step, drawing, num_rows = None, None, sum(placeholders.values())
    if compile_ahead:
        blank = opened.blank(precision.dtype(config.precision))._replace(products=precision.products(config.precision))
        blank = ahead.without_weights(blank, mesh)
        learned = jax.ShapeDtypeStruct((len(runs), num_rows, sizes.text.hidden_size), "float32")
        of_step = {"config": static, "capacity": 0 if is_slow else config.steps_per_dispatch}
        the_step = ahead.compile_step(learned, blank, inputs.join_runs(texts), hyper, timeline=timeline, **of_step)
        if asked := config.preview_every_steps and runs[0].config.preview_prompts:
            how = Sampling.of(config, at_most=len(asked))
            # For a large model on a CPU, the second compiler would delay the first step.
            after = the_step if is_slow else None
            drawing = ahead.compile_drawing(
                blank, asked, tokenizer.length, num_rows, sampling=how, timeline=timeline, after=after
            )
    with timeline.part("read the weights"):
        sd = read_weights(opened, config.precision, mesh)
    with timeline.part("encode the exemplars"), jax.default_matmul_precision(sd.products):
        data = inputs.join_runs([_with_pictures(run, own, sd) for run, own in zip(runs, texts, strict=True)])
    first = jnp.stack([_first_rows(run, given[run.config.initialiser], sd, tokenizer) for run in runs])
    placed, hyper, first = parallel.replicate((data, hyper, first), mesh)
    return Job(config, runs, sd, tokenizer, placed, hyper, static, first, mesh, is_slow, the_step, drawing)


def _load_run(name: str, config: Settings) -> Run:
    shown = load_exemplars(config)
    return Run(name, dataclasses.replace(config, preview_prompts=preview_prompts(config, shown)), shown)


@contextlib.contextmanager
def _naming(run: Run) -> Iterator[None]:
    """Puts the run's name in front of the message of a ValueError, if there are several runs."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{run.name}: {error}" if run.name else error) from error


def _texts(run: Run, sizes: ModelConfig, tokenizer: Tokenizer, lists: Mapping[str, Sequence[str]]) -> Data:
    """Returns a run's data (R = 1) without the encoded pictures: mean and std are zeros."""
    latents = inputs.blank_posterior(sizes.vae, run.exemplars.images)
    with _naming(run):
        return inputs.prepare_run(
            run.exemplars,
            tokenizer,
            latents,
            **lists,
            inverse=run.config.inverse_share > 0,
            steers_to_verbs=run.config.verb_weight > 0,
            negatives=run.config.negatives,
        )


def _with_pictures(run: Run, texts: Data, sd: folder.StableDiffusion) -> Data:
    """Returns a run's data with the posterior of its pictures filled in."""
    in_pixels = run.config.suppressor_target == "pixels"
    sigma_px = run.config.suppressor_sigma_px if in_pixels else 0.0
    with _naming(run):
        mean, std = inputs.posterior(sd.params["vae"], sd.config.vae, run.exemplars.images, sigma_px)
    return texts._replace(mean=mean[None], std=std[None])


def _first_rows(run: Run, given: Mapping[str, np.ndarray] | None, sd: Any, tokenizer: Tokenizer) -> jax.Array:
    """Returns the rows [P, D] that a run starts from: the embedding of the initialiser word, or a file's rows.

    given: the file's rows by token, or None to use the word. A token that the file lacks starts from the rows of <R>.
    Raises ValueError if the initialiser word cannot be used.
    """
    if given is None:
        words = [tokenizer.word_ids(run.config.initialiser)] * len(PLACEHOLDERS)
        with _naming(run):
            return rows.init(token_table(sd.params), words, run.config.rows_per_token)
    return jnp.concatenate([jnp.asarray(given.get(token, given[RELATION])) for token in PLACEHOLDERS])


def first_state(job: Job) -> step.State:
    """Returns the state before the first step, on the job's devices."""
    return parallel.replicate(step.init_state(job.first_rows, job.step_config), job.mesh)


def advance(job: Job, state: step.State, count: int, capacity: int) -> tuple[step.State, step.Metrics]:
    """Trains `count` <= capacity steps of the job in one call of the compiled function; see `step.train_steps`.

    If the job is slow, `count` must be 1, and the metrics have one step. Do not use `state` again after the call.
    """
    if job.step_compiled:
        job.step_compiled.result()
    with jax.default_matmul_precision(job.sd.products):
        return step.program(job.sd.params, job.mesh)(
            state,
            jnp.int32(count),
            job.sd.params,
            job.data,
            job.hyper,
            model=job.sd.config,
            schedule=job.sd.schedule,
            config=job.step_config,
            capacity=0 if job.is_slow else capacity,
            mesh=job.mesh,
        )
