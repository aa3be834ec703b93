"""Reports on a job: its description, the rows' norms and nearest words, contact sheets, and the judge's verdict."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.drawing import generate, pictures, plots
from reversion_jax.inversion import prompts, rows
from reversion_jax.miniature import judge, scenes
from reversion_jax.models.clip import token_table
from reversion_jax.runs import history
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job, Run

_TOLD = 12  # maximum number of runs that `describe` lists
_FEW = 0.5  # share of pictures with the right relation, below which the user gets advice


def describe(job: Job, from_model: Collection[str] = ()) -> str:
    """Returns a text that says what was loaded and what will be done, for printing before training starts.

    from_model: names of the settings that come from the model's folder.
    """
    c = job.config
    lines = [f"model       {c.model}, {sum(x.size for x in jax.tree.leaves(job.sd.params)):,} frozen numbers"]
    if from_model:
        told_settings = [f"{key} {getattr(c, key)}" for key in sorted(from_model) if key != "preview_prompts"]
        told_settings += ["preview prompts"] * ("preview_prompts" in from_model)
        lines += [f"model sets  {', '.join(told_settings)}"]
    if len(job.runs) == 1:
        lines += _describe_run(job.runs[0])
    else:
        told = [f"  {run.name}: {_exemplars(run)}, {_method(run.config)}" for run in job.runs[:_TOLD]]
        lines += [f"runs        {len(job.runs)} together", *told]
        lines += [f"  … and {len(job.runs) - _TOLD} more"] * (len(job.runs) > _TOLD)
    inverse = any(run.config.inverse_share for run in job.runs)
    lines += [
        f"learns      {job.first_rows.size // (1 if inverse else 2):,} numbers: {c.rows_per_token} row(s) "
        + ("each of <R> and <R-inv>" if inverse else "of <R>")
        + (" for every run" if len(job.runs) > 1 else f", from {c.initialiser!r}"),
        f"training    {c.steps} steps of {c.batch_size} x {c.accumulation} samples"
        + (" a run" if len(job.runs) > 1 else "")
        + (", each with both prompts" if job.step_config.adds_inverse else "")
        + f", {c.samples_at_once} per pass through the networks",
        f"device      {jax.devices()[0].device_kind}, networks in {c.precision}" + _shares(job),
    ]
    return "\n".join(lines)


def _describe_run(run: Run) -> list[str]:
    first = run.exemplars.templates[0][0]
    share = run.config.inverse_share
    when = "with each" if run.config.inverse_prompts == "add" else f"for {share:.0%}"
    inverse = f" and, {when}, {first.inverse()!r}" if share else " (<R-inv> is not trained)"
    return [
        f"exemplars   {run.config.exemplars}: {_exemplars(run)}",
        f"prompts     {first.direct()!r}{inverse}",
        f"method      {_method(run.config)}",
    ]


def _exemplars(run: Run) -> str:
    sigma = run.config.suppressor_sigma_px
    filtered = f", low-passed with sigma {sigma:g} px" if sigma else ""
    return f"{len(run.exemplars.images)} exemplars at {run.config.resolution} px{filtered}"


def _method(c: Settings) -> str:
    return (
        f"{c.method}, rate {c.learning_rate:g}, control {c.control_weight:g} ({c.verb_weight:g} verbs), "
        f"importance {c.importance:g}, seed {c.seed}"
    )


def _shares(job: Job) -> str:
    """Returns how the devices share the samples and weights, as text; "" if there is only one device."""
    used, there = job.mesh.size, jax.device_count()
    samples = job.step_config.samples_at_once
    shards = job.config.weight_shards
    together = f", {shards} share one copy of the weights" if shards > 1 else ""
    return f", {used} of {there}: each has {samples // used} of {samples} samples{together}" if there > 1 else ""


def draw(
    job: Job, texts: Sequence[str], learned: jax.Array, label: str | None = None, seed: int | None = None
) -> np.ndarray:
    """Draws one image for each prompt with rows [P, D] and the config's sampling settings; returns uint8 [N, H, W, 3].

    label: text beside the progress bar; None: no progress bar.
    seed: image i is drawn from seed + i; None: config.preview_seed.
    """
    if job.drawing_compiled:
        job.drawing_compiled.result()
    c = job.config
    seed = c.preview_seed if seed is None else seed
    seeds = [seed + i for i in range(len(texts))]
    sampling = generate.Sampling.of(c, at_most=len(texts))
    images = generate.draw(job.sd, job.tokenizer, texts, seeds, learned, sampling=sampling, progress=label)
    return generate.to_uint8(images)


def look(job: Job, learned: jax.Array, top: int = 10) -> list[dict]:
    """Measures the first row of <R> in each run's rows [R, P, D]; returns one dict for each run.

    The dict has the row's norm, its distance from where it started, and its `top` nearest words with their cosines.
    """
    norms, distances, ids, cosines = jax.device_get(
        _look(learned[:, 0], job.first_rows[:, 0], token_table(job.sd.params), top)
    )
    return [
        {
            "norm": float(norms[r]),
            "distance": float(distances[r]),
            "nearest": [
                [name, round(float(cosine), 4)]
                for name, cosine in zip(job.tokenizer.ids_to_words(ids[r].tolist()), cosines[r], strict=True)
            ],
        }
        for r in range(len(job.runs))
    ]


@partial(jax.jit, static_argnames="top")
def _look(learned: jax.Array, first: jax.Array, table: jax.Array, top: int) -> tuple[jax.Array, ...]:
    """Returns norms [R] of the rows `learned` [R, D], distances [R] to `first`, nearest tokens and cosines [R, top]."""
    norm = partial(jnp.linalg.norm, axis=-1)
    return norm(learned), norm(learned - first), *rows.nearest(learned, table, top)


def report(job: Job, number: int, folder: epath.Path, learned: jax.Array, drawn: Mapping[int, np.ndarray]) -> None:
    """Writes a run's contact sheet and plot and, for drawn exemplars, prints the judge's verdict.

    learned: rows of all runs [R, P, D].
    drawn: pictures of the first and the last preview, by step. If a picture is missing, it is drawn now.
    All processes draw, but only the first process writes and prints.
    """
    run, first, last = job.runs[number], job.first_rows[number], learned[number]
    c = run.config
    texts = c.preview_prompts if c.preview_every_steps else ()
    captions = [templates[0].fill("{}") for templates in run.exemplars.templates]
    shown = generate.to_uint8(run.exemplars.images)
    sections: list[tuple[str, np.ndarray, Sequence[str]]] = [("exemplars", shown, captions)]
    if texts:
        before, after = drawn.get(0), drawn.get(c.steps)
        if before is None:
            before = draw(job, texts, first, "drawing the prompts before")
        if after is None:
            after = draw(job, texts, last, "drawing the prompts after")
        sections += [(f"before: <R> is {c.initialiser!r}", before, texts), (f"after {c.steps} steps", after, texts)]
    title = f"{c.relation}, {c.method}, {c.model}, seed {c.seed}"
    nearest = ", ".join(f"{word} {cosine:.2f}" for word, cosine in look(job, learned)[number]["nearest"][:6])
    if is_first():
        pictures.save_png(folder / "contact_sheet.png", pictures.contact_sheet(title, sections))
        plots.plot_history(history.read(folder / history.NAME), folder / "training.png", title)
        print(f"{run.name + ': ' if run.name else ''}nearest words of <R>: {nearest}")
    if c.exemplars == settings.DRAWN and c.judged_prompts:
        _judge(job, run, first, last)


def _judge(job: Job, run: Run, first: jax.Array, last: jax.Array) -> None:
    """Prints the judge's verdict on pictures drawn with a run's rows [P, D] before and after training."""
    c = run.config
    asked = scenes.unseen_scenes(c.relation, c.judged_prompts, c.preview_seed + 1)
    texts = [f"{s.subject} {prompts.RELATION} {s.object}" for s in asked]
    for name, vectors in (("before", first), ("after", last)):
        seen = draw(job, texts, vectors, f"for the judge, {name}", c.preview_seed + 1000)
        if not is_first():
            continue
        relation, both = judge.right(judge.look(seen / np.float32(127.5) - 1), asked)
        print(
            f"judge, {name:6}: relation right {relation.mean():.0%}, both entities right {both.mean():.0%}, "
            f"all right {(relation & both).mean():.0%} of {len(asked)} unseen pairs"
        )
    if is_first() and relation.mean() < _FEW:
        print("few pictures show the relation: try another --config.seed, or more --config.steps")
