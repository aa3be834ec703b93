"""Training: exemplars in, learned rows out, with everything that a person wants to see on the way."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from reversion_jax import config as settings
from reversion_jax import files, pictures
from reversion_jax.checkpoints import Checkpoints
from reversion_jax.inversion import step
from reversion_jax.job import Job, advance, first_state, prepare, read_settings
from reversion_jax.parallel import any_process, is_first
from reversion_jax.report import describe, draw, look, preview_prompts, report

# Keys that may change when a run is taken up again: they do not touch what is learned.
_FREE = [
    "devices",
    "weight_shards",
    "remat",
    "runs_at_once",
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


def _take_up(job: Job, workdir: epath.Path, checkpoints: Checkpoints) -> step.State:
    """The newest checkpoint's state, or the first; the metrics beyond it are dropped. ValueError if not this run."""
    state = first_state(job)
    path = workdir / "config.json"
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
        files.write(path, json.dumps(mine, indent=2) + "\n")
        for run in job.runs:
            _cut_history(workdir / run.name / "metrics.jsonl", int(state.step))
    return state


def _cut_history(path: epath.Path, last: int) -> None:
    """Drops the metrics of steps beyond the last one, which will be done again."""
    path.parent.mkdir(exist_ok=True)
    kept = [record for record in pictures.read_history(path) if record["step"] <= last] if path.exists() else []
    files.write(path, "".join(json.dumps(record) + "\n" for record in kept))


class _Watcher:
    """Writes each run's metrics.jsonl and moves the progress bar, one dispatch behind the device."""

    def __init__(self, job: Job, workdir: epath.Path, first: int):
        self._job, self._workdir, self._pending = job, workdir, None
        steps = job.config.steps
        self.bar = tqdm(
            total=steps, initial=first, desc="training", mininterval=0.5, unit="step", disable=not is_first()
        )

    def push(self, first: int, count: int, metrics: step.Metrics, learned: jax.Array) -> None:
        self.flush()
        self._pending = (first, count, metrics, learned)

    def flush(self) -> None:
        """Waits for the last dispatch; FloatingPointError, with run and step, if a loss was not finite."""
        if self._pending is None:
            return
        first, count, metrics, learned = self._pending
        self._pending = None
        losses = {name: np.asarray(values)[:count] for name, values in metrics._asdict().items()}
        finite = np.isfinite(np.asarray(learned)).all(axis=(1, 2))
        for number, run in enumerate(self._job.runs):
            of_run = f" of {run.name}" if run.name else ""
            for name, values in losses.items():
                if not np.isfinite(values[:, number]).all():
                    at = int(np.argmin(np.isfinite(values[:, number])))
                    value = f"{values[at, number]} at step {first + at + 1}"
                    raise FloatingPointError(f"the {name} loss{of_run} is {value}: lower the rate")
            if not finite[number]:
                raise FloatingPointError(f"the rows{of_run} are not finite at step {first + count}: lower the rate")
        seen = look(self._job, learned)
        if not is_first():
            return
        for number, run in enumerate(self._job.runs):
            of_run = {name: values[:, number].tolist() for name, values in losses.items()}
            records = [{"step": first + i + 1} | {name: of_run[name][i] for name in of_run} for i in range(count)]
            records[-1] |= seen[number]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            files.append(self._workdir / run.name / "metrics.jsonl", lines)
        self.bar.update(count)
        shown = {name: f"{values.mean():.4f}" for name, values in losses.items()}
        if len(seen) == 1:
            shown["nearest"] = " ".join(word for word, _ in seen[0]["nearest"][:3])
        self.bar.set_postfix(shown)


def train(config: ConfigDict, workdir: epath.Path) -> np.ndarray:
    """Trains the config's runs in `workdir`, or takes them up again; returns the learned rows [R, P, D].

    One run's results lie in `workdir`, those of several in a folder of each. A stopped job goes on, bit for bit, as if
    it had not been stopped. ValueError, OSError: bad input; FloatingPointError: diverged; KeyboardInterrupt: stopped by
    a signal, after a checkpoint.
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
    texts = [preview_prompts(run.config) if config.preview_every_steps else [] for run in job.runs]
    drawn = [{} for _ in job.runs]  # by run and step, for the report

    def preview(learned: jax.Array, at: int) -> None:
        for number, run in enumerate(job.runs):
            if not texts[number]:
                continue
            images = draw(job, texts[number], learned[number], f"preview at step {at} {run.name}".strip())
            if at in (0, config.steps):
                drawn[number][at] = images
            if is_first():
                path = workdir / run.name / "previews" / f"step_{at:06d}.png"
                pictures.save_png(path, pictures.grid(images))

    if done:
        say(f"taken up at step {done} of {config.steps}")
    else:
        preview(state.rows, 0)
    watcher = _Watcher(job, workdir, done)
    # A preview every 0 steps is none: as if it came every time that a checkpoint is written, and drew nothing.
    preview_every = config.preview_every_steps or config.checkpoint_every_steps
    with _stop_on_signal() as stopped, watcher.bar:
        while done < config.steps and not any_process(stopped()):
            to_boundary = [every - done % every for every in (config.checkpoint_every_steps, preview_every)]
            count = min(config.steps_per_dispatch, config.steps - done, *to_boundary)
            state, metrics = advance(job, state, count, config.steps_per_dispatch)
            # A copy: the state's own buffers are given to the next dispatch.
            watcher.push(done, count, metrics, jnp.copy(state.rows))
            done += count
            if done % config.checkpoint_every_steps == 0:
                watcher.flush()
                checkpoints.save(done, state)
            if done % preview_every == 0 and not any_process(stopped()):
                watcher.flush()
                preview(state.rows, done)
        watcher.flush()
        checkpoints.save(done, state)
    checkpoints.close()
    if done < config.steps:
        raise KeyboardInterrupt(f"stopped at step {done}, checkpoint written; the same command goes on from there")
    for number, run in enumerate(job.runs):
        report(job, number, workdir / run.name, state.rows, drawn[number])
    if len(job.runs) == 1:
        place = workdir / job.runs[0].name
        say(f"pictures: {place / 'contact_sheet.png'}, {place / 'training.png'}, {place / 'previews'}")
    else:
        say(f"pictures: contact_sheet.png, training.png and previews in each run's folder in {workdir}")
    return np.asarray(state.rows)
