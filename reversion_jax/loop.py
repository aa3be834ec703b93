"""The training run: exemplars in, learned rows out, with everything that a person wants to see on the way."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from reversion_jax import config as settings
from reversion_jax import generate, pictures
from reversion_jax.checkpoints import Checkpoints, write_text
from reversion_jax.inversion import prompts, step
from reversion_jax.job import (
    Job,
    advance,
    describe,
    draw,
    first_state,
    look,
    prepare,
    preview_prompts,
    read_settings,
)
from reversion_jax.miniature import judge, scenes
from reversion_jax.parallel import any_process, is_first

# Keys that may change when a run is taken up again: they do not touch what is learned.
_FREE = [
    "devices",
    "steps",
    "steps_per_dispatch",
    "checkpoint_every_steps",
    "preview_every_steps",
    "preview_prompts",
    "preview_seed",
    "judged_prompts",
    "sample_steps",
    "sampler",
    "guidance_scale",
    "negative_prompt",
    "sample_batch",
]


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Makes SIGINT and SIGTERM end the run after the dispatch under way, with a checkpoint; a second one at once."""
    caught, before = [], {}

    def catch(number: int, _) -> None:
        caught.append(number)
        print("\nstopping after the steps under way; once more to stop at once", flush=True)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    with contextlib.suppress(ValueError):  # only the main thread may install handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, catch)
    try:
        yield lambda: bool(caught)
    finally:
        restore()


def _take_up(job: Job, workdir: Path, checkpoints: Checkpoints) -> step.State:
    """The newest checkpoint's state, or the first; the metrics beyond it are dropped. ValueError if not this run."""
    state = first_state(job)
    path = workdir / "config.json"
    history = workdir / "metrics.jsonl"
    mine = json.loads(job.config.to_json())
    if checkpoints.latest() is not None:
        if not path.exists():
            raise ValueError(
                f"{workdir} holds checkpoints but no config.json: give a new --workdir, or delete that one"
            )
        theirs = read_settings(path)
        changed = sorted(k for k in mine.keys() | theirs.keys() if k not in _FREE and mine.get(k) != theirs.get(k))
        if changed:
            raise ValueError(
                f"{workdir} holds a run with another {', '.join(changed)}: give a new --workdir, or delete that one"
            )
        if checkpoints.latest() > job.config.steps:
            raise ValueError(
                f"{workdir} is at step {checkpoints.latest()} already, beyond config.steps={job.config.steps}: "
                "give more steps, or a new --workdir"
            )
        state = checkpoints.restore(state)
    if is_first():
        write_text(path, json.dumps(mine, indent=2) + "\n")
        kept = [r for r in pictures.read_history(history) if r["step"] <= int(state.step)] if history.exists() else []
        write_text(history, "".join(json.dumps(record) + "\n" for record in kept))
    return state


class _Watcher:
    """Writes metrics.jsonl and moves the progress bar, one dispatch behind the device."""

    def __init__(self, job: Job, workdir: Path, first: int):
        self._job, self._path, self._pending = job, workdir / "metrics.jsonl", None
        steps = job.config.steps
        self.bar = tqdm(
            total=steps, initial=first, desc="training", mininterval=0.5, unit="step", disable=not is_first()
        )

    def push(self, first: int, count: int, metrics: step.Metrics, learned: jax.Array) -> None:
        self.flush()
        self._pending = (first, count, metrics, learned)

    def flush(self) -> None:
        """Waits for the last dispatch; FloatingPointError, with the step's number, if a loss was not finite."""
        if self._pending is None:
            return
        first, count, metrics, learned = self._pending
        self._pending = None
        losses = {name: np.asarray(values)[:count, 0] for name, values in metrics._asdict().items()}
        for name, values in losses.items():
            if not np.isfinite(values).all():
                at = first + int(np.argmin(np.isfinite(values))) + 1
                raise FloatingPointError(f"the {name} loss is {values[at - first - 1]} at step {at}: lower the rate")
        if not np.isfinite(learned).all():
            raise FloatingPointError(f"the rows are not finite at step {first + count}: lower the rate")
        seen = look(self._job, learned)
        if not is_first():
            return
        with open(self._path, "a") as file:
            for i in range(count):
                record = {"step": first + i + 1, **{name: float(values[i]) for name, values in losses.items()}}
                file.write(json.dumps(record | (seen if i + 1 == count else {})) + "\n")
        self.bar.update(count)
        nearest = " ".join(word for word, _ in seen["nearest"][:3])
        means = {name: f"{values.mean():.4f}" for name, values in losses.items()}
        self.bar.set_postfix(means | {"nearest": nearest})


def _report(job: Job, workdir: Path, learned: jax.Array, texts: list[str], drawn: dict[int, np.ndarray]) -> None:
    """Contact sheet, plot and, on the miniature, the judge's word; all processes draw, the first one writes.

    `drawn` has the first and the last preview's pictures, by their steps, where this process drew them.
    """
    c = job.config
    first = [prompts.direct(t[0]).replace(prompts.RELATION, "{}") for t in job.exemplars.templates]
    sections = [("exemplars", generate.to_uint8(job.exemplars.images), first)]
    if texts:
        before, after = drawn.get(0), drawn.get(c.steps)
        if before is None:
            before = draw(job, texts, job.first_rows[0], "drawing the prompts before")
        if after is None:
            after = draw(job, texts, learned, "drawing the prompts after")
        sections += [(f"before: <R> is {c.initialiser!r}", before, texts), (f"after {c.steps} steps", after, texts)]
    title = f"{c.relation}, {c.method}, {c.model}, seed {c.seed}"
    nearest = ", ".join(f"{word} {cosine:.2f}" for word, cosine in look(job, learned[None])["nearest"][:6])
    if is_first():
        pictures.save_png(workdir / "contact_sheet.png", pictures.contact_sheet(title, sections))
        pictures.plot_history(pictures.read_history(workdir / "metrics.jsonl"), workdir / "training.png", title)
        print(f"nearest words of <R>: {nearest}")
    if c.model == settings.MINIATURE and not c.exemplars and c.judged_prompts:
        asked = scenes.unseen_scenes(c.relation, c.judged_prompts, c.preview_seed + 1)
        texts = [f"{s.subject} {prompts.RELATION} {s.object}" for s in asked]
        for name, vectors in (("before", job.first_rows[0]), ("after", learned)):
            seen = draw(job, texts, vectors, f"for the judge, {name}", c.preview_seed + 1000)
            if not is_first():
                continue
            relation, both = judge.right(judge.look(seen / np.float32(127.5) - 1), asked)
            print(
                f"judge, {name:6}: relation right {relation.mean():.0%}, both entities right {both.mean():.0%}, "
                f"all right {(relation & both).mean():.0%} of {len(asked)} unseen pairs"
            )
    if is_first():
        print(f"pictures: {workdir / 'contact_sheet.png'}, {workdir / 'training.png'}, {workdir / 'previews'}")


def train(config: ConfigDict, workdir: Path) -> np.ndarray:
    """Trains the config's run in `workdir`, or takes it up again; returns the learned rows [P, D].

    A stopped run goes on, bit for bit, as if it had not been stopped. ValueError, OSError: bad input;
    FloatingPointError: diverged; KeyboardInterrupt: stopped by a signal, after a checkpoint.
    """
    config = settings.settle(config)
    started = time.time()
    job = prepare(config)
    say = print if is_first() else lambda *_, **__: None
    say(describe(job) + f"\nloaded in   {time.time() - started:.0f} s; results go to {workdir}", flush=True)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = _take_up(job, workdir, checkpoints)
    done = int(state.step)
    texts = preview_prompts(config)
    drawn = {}

    def preview(learned: jax.Array, at: int) -> None:
        if texts:
            images = draw(job, texts, learned, f"preview at step {at}")
            if at in (0, config.steps):
                drawn[at] = images
            if is_first():
                pictures.save_png(workdir / "previews" / f"step_{at:06d}.png", pictures.grid(images))

    if done:
        say(f"taken up at step {done} of {config.steps}")
    else:
        preview(state.rows[0], 0)
    watcher = _Watcher(job, workdir, done)
    with _stop_on_signal() as stopped, watcher.bar:
        while done < config.steps and not any_process(stopped()):
            to_boundary = [
                every - done % every for every in (config.checkpoint_every_steps, config.preview_every_steps)
            ]
            count = min(config.steps_per_dispatch, config.steps - done, *to_boundary)
            state, metrics = advance(job, state, count, config.steps_per_dispatch)
            # A copy: the state's own buffers are given to the next dispatch.
            watcher.push(done, count, metrics, jnp.copy(state.rows))
            done += count
            if done % config.checkpoint_every_steps == 0:
                watcher.flush()
                checkpoints.save(done, state)
            if done % config.preview_every_steps == 0 and not any_process(stopped()):
                watcher.flush()
                preview(state.rows[0], done)
        watcher.flush()
        checkpoints.save(done, state)
    checkpoints.close()
    if done < config.steps:
        raise KeyboardInterrupt(f"stopped at step {done}, checkpoint written; the same command goes on from there")
    _report(job, workdir, state.rows[0], texts, drawn)
    return np.asarray(state.rows[0])
