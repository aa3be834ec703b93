"""Training: exemplars in, learned rows out, with everything that a person wants to see on the way."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.drawing import pictures
from reversion_jax.inversion import step
from reversion_jax.runs import folder
from reversion_jax.runs.checkpoints import Checkpoints
from reversion_jax.runtime.parallel import any_process, is_first
from reversion_jax.training.prepare import Job, advance, prepare, settle
from reversion_jax.training.report import describe, draw, report
from reversion_jax.training.resume import take_up
from reversion_jax.training.watch import Progress, Watcher
from reversion_jax.weights import own_settings

OnProgress = Callable[[Progress], None]


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Makes SIGINT and SIGTERM end the run after the dispatch under way, with a checkpoint; a second one at once."""
    caught: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def catch(number: int, _: object) -> None:
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


class _Previews:
    """Draws each run's preview prompts, and keeps the first and the last pictures for the report."""

    def __init__(self, job: Job, workdir: epath.Path):
        self._job, self._workdir = job, workdir
        self.drawn: list[dict[int, np.ndarray]] = [{} for _ in job.runs]  # by run and step

    def draw(self, learned: jax.Array, at: int) -> None:
        """Draws with rows [R, P, D] at step `at`, and writes the pictures into each run's folder."""
        if not self._job.config.preview_every_steps:
            return
        for number, run in enumerate(self._job.runs):
            if not run.config.preview_prompts:
                continue
            label = f"preview at step {at} {run.name}".strip()
            images = draw(self._job, run.config.preview_prompts, learned[number], label)
            if at in (0, self._job.config.steps):
                self.drawn[number][at] = images
            if is_first():
                path = self._workdir / run.name / "previews" / f"step_{at:06d}.png"
                pictures.save_png(path, pictures.grid(images))


def _write_rows(job: Job, workdir: epath.Path, rows: jax.Array, at: int) -> None:
    """Writes each run's rows, of [R, P, D], into its folder."""
    values = np.asarray(rows)
    if is_first():
        for run, own in zip(job.runs, values, strict=True):
            folder.write_rows(workdir / run.name, own, at)


def _next_stop(config: Settings, done: int) -> int:
    """How many steps the next dispatch has: up to the next checkpoint or preview."""
    every = [config.checkpoint_every_steps, config.preview_every_steps or config.checkpoint_every_steps]
    return min(config.steps_per_dispatch, config.steps - done, *(n - done % n for n in every))


def _train_steps(
    job: Job,
    state: step.State,
    workdir: epath.Path,
    checkpoints: Checkpoints,
    previews: _Previews,
    stopped: Callable[[], bool],
    on_progress: OnProgress | None,
) -> tuple[step.State, int]:
    """Trains until the last step, or until `stopped` says so; writes metrics, checkpoints and previews."""
    config, done = job.config, int(state.step)
    preview_every = config.preview_every_steps or config.checkpoint_every_steps
    watcher = Watcher(job, workdir, done, on_progress)

    def keep(state: step.State) -> None:
        watcher.flush()
        checkpoints.save(done, state)
        _write_rows(job, workdir, state.rows, done)

    with watcher.bar:
        while done < config.steps and not stopped():
            count = _next_stop(config, done)
            state, metrics = advance(job, state, count, config.steps_per_dispatch)
            # A copy: the state's own buffers are given to the next dispatch.
            watcher.push(done, count, metrics, jnp.copy(state.rows))
            done += count
            if done % config.checkpoint_every_steps == 0:
                keep(state)
            if done % preview_every == 0 and not stopped():
                watcher.flush()
                previews.draw(state.rows, done)
        keep(state)
    return state, done


def train(
    config: ConfigDict | Settings,
    workdir: epath.Path,
    *,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Trains the config's runs in `workdir`, or takes them up again; returns the learned rows [R, P, D].

    One run's results lie in `workdir`, those of several in a folder of each. A stopped job goes on, bit for bit, as if
    it had not been stopped. `on_progress` is called after each dispatch. `should_stop` is asked between dispatches; if
    it says yes, a checkpoint is written, and the rows so far are returned. ValueError, OSError: bad input;
    FloatingPointError: diverged; KeyboardInterrupt: stopped by a signal, after a checkpoint.
    """
    started = time.time()
    own = own_settings.read(config.model)
    given, config = config, settings.settle(config, own)
    job = prepare(config)
    say = print if is_first() else lambda *_, **__: None
    say(describe(job, {key for key in own if getattr(given, key) is None}), flush=True)
    say(f"loaded in   {time.time() - started:.0f} s; results go to {workdir}", flush=True)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir / folder.CHECKPOINTS)
    state = take_up(job, workdir, checkpoints)
    previews = _Previews(job, workdir)
    if int(state.step):
        say(f"taken up at step {int(state.step)} of {config.steps}")
        _write_rows(job, workdir, state.rows, int(state.step))
    else:
        previews.draw(state.rows, 0)
    with _stop_on_signal() as signalled:
        stopped = lambda: any_process(signalled() or should_stop())
        state, done = _train_steps(job, state, workdir, checkpoints, previews, stopped, on_progress)
    checkpoints.close()
    if done < config.steps:
        if any_process(signalled()):
            raise KeyboardInterrupt(f"stopped at step {done}, checkpoint written; the same command goes on from there")
        return np.asarray(state.rows)
    for number, run in enumerate(job.runs):
        report(job, number, workdir / run.name, state.rows, previews.drawn[number])
    names = "contact_sheet.png, training.png, previews"
    say(
        f"pictures: {names} in {workdir}"
        if len(job.runs) == 1
        else f"pictures: {names} in each run's folder in {workdir}"
    )
    return np.asarray(state.rows)


def learn(
    config: ConfigDict | Settings,
    workdir: epath.PathLike,
    *,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Sequence[folder.LearnedRun]:
    """Learns a relation as a call; returns one `LearnedRun` for each of the config's runs. See `train`."""
    path = epath.Path(workdir)
    train(config, path, on_progress=on_progress, should_stop=should_stop)
    names = settings.each_run(settle(config))
    return [folder.read(path / name) for name in names]
