"""The training loop: runs the training steps, and writes metrics, previews, checkpoints and reports.

The loop calls the compiled function once for several training steps; such a call is named a dispatch.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.inversion import step
from reversion_jax.runs import folder
from reversion_jax.runs.checkpoints import Checkpoints
from reversion_jax.runs.owner import owned
from reversion_jax.runtime.parallel import any_process, is_first
from reversion_jax.runtime.timeline import Timeline
from reversion_jax.training import run_logs
from reversion_jax.training.prepare import Job, advance, prepare, settle
from reversion_jax.training.previews import Previews
from reversion_jax.training.report import describe, report
from reversion_jax.training.resume import check, state_hash, take_up
from reversion_jax.training.run_logs import RunLog
from reversion_jax.training.watch import Progress, Watcher
from reversion_jax.weights import own_settings

OnProgress = Callable[[Progress], None]


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether SIGINT or SIGTERM has come. A second signal ends the process at once."""
    caught: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def catch(number: int, _: object) -> None:
        caught.append(number)
        print("\nstopping after the current steps; press Ctrl-C again to stop at once", flush=True)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    with contextlib.suppress(ValueError):  # only the main thread may install signal handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, catch)
    try:
        yield lambda: bool(caught)
    finally:
        restore()


def _write_rows(job: Job, workdir: epath.Path, state: step.State) -> None:
    """Writes each run's learned rows, which are in `state`, into the run's folder."""
    values = np.asarray(state.rows)
    if is_first():
        of_checkpoint = state_hash(state)
        for run, own in zip(job.runs, values, strict=True):
            folder.write_rows(workdir / run.name, own, int(state.step), of_checkpoint)


def _next_stop(config: Settings, runs: int, done: int) -> int:
    """Returns the number of steps for the next dispatch, which ends at the next checkpoint or preview at the latest.

    Steps of many runs take long, so a dispatch then has fewer steps. The progress bar moves after each dispatch.
    """
    every = [config.checkpoint_every_steps, config.preview_every_steps or config.checkpoint_every_steps]
    return min(max(1, config.steps_per_dispatch // runs), config.steps - done, *(n - done % n for n in every))


def _tell_how_long(job: Job, state: step.State, began: float) -> None:
    """Prints how long the run will take, estimated from one step that started at the time `began`."""
    jax.block_until_ready(state.rows)
    a_step = time.perf_counter() - began
    hours = a_step * (job.config.steps - int(state.step)) / 3600
    if is_first():
        print(f"a step takes {a_step:.0f} s on this CPU, so the run takes {hours:.1f} hours; a GPU would take minutes")


def _train_steps(
    job: Job,
    state: step.State,
    workdir: epath.Path,
    checkpoints: Checkpoints,
    logs: Sequence[RunLog],
    previews: Previews,
    stopped: Callable[[], bool],
    still_ours: Callable[[], None],
    on_progress: OnProgress | None,
    timeline: Timeline,
) -> tuple[step.State, int]:
    """Trains to the last step, or until `stopped` returns True; returns the state and the number of steps done.

    Also writes metrics, checkpoints, previews, and the timeline of the start. The first steps are trained before the
    first preview is drawn, while its program is compiled. `still_ours` raises OSError if another process owns the
    folder now.
    """
    config, done = job.config, int(state.step)
    preview_every = config.preview_every_steps or config.checkpoint_every_steps
    watcher = Watcher(job, workdir, logs, done, on_progress)
    first = done

    def keep(state: step.State) -> None:
        watcher.flush()
        still_ours()
        checkpoints.save(done, state)
        _write_rows(job, workdir, state)

    with watcher.bar:
        while done < config.steps and not stopped():
            count, began = 1 if job.is_slow else _next_stop(config, len(job.runs), done), time.perf_counter()
            state, metrics = advance(job, state, count, config.steps_per_dispatch)
            if job.is_slow and done == first + 1:  # the second step, because the first step also waits for the compiler
                _tell_how_long(job, state, began)
            still_ours()
            if done == first:
                jax.block_until_ready(state.rows)
                timeline.add("train the first steps", began)
            # Copy the rows, because the next dispatch reuses the state's buffers.
            watcher.push(done, count, metrics, jnp.copy(state.rows))
            if done == 0 and not stopped():
                with timeline.part("draw the first preview"):
                    previews.draw(job.first_rows, 0)
            if done == first and is_first():
                timeline.write(workdir / timeline.NAME)
            done += count
            if done % config.checkpoint_every_steps == 0:
                keep(state)
            if done % preview_every == 0 and not stopped():
                watcher.flush()
                previews.draw(state.rows, done)
        keep(state)
    if done == config.steps and is_first():
        watcher.warn_of_rest(np.asarray(state.rows))
    return state, done


def train(
    config: ConfigDict | Settings,
    workdir: epath.Path,
    *,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Trains the runs of a config, or resumes them; returns the learned rows [R, P, D].

    workdir: folder for the results. If there are several runs, each run has its own folder in `workdir`. If `workdir`
    has a stopped job with the same config, the job is resumed; the result is the same, bit for bit, as without a stop.
    on_progress: called after each dispatch.
    should_stop: called between dispatches. If `should_stop` returns True, writes a checkpoint and returns the rows.

    Raises ValueError or OSError for bad input or a folder that belongs to another job, and FloatingPointError if
    training diverges. If a signal stops training, writes a checkpoint and raises KeyboardInterrupt.
    """
    own = own_settings.read(config.model)
    given, config = config, settle(config)
    run_logs.check(config, workdir)
    with owned(workdir) as still_ours:
        config = check(config, workdir)
        return _train(
            config, {key for key in own if getattr(given, key) is None}, workdir, still_ours, on_progress, should_stop
        )


def _train(
    config: Settings,
    from_model: Collection[str],
    workdir: epath.Path,
    still_ours: Callable[[], None],
    on_progress: OnProgress | None,
    should_stop: Callable[[], bool],
) -> np.ndarray:
    """Does the work of `train` in a folder that this process owns. from_model: settings from the model's folder."""
    started, timeline = time.time(), Timeline()
    job = prepare(config, compile_ahead=True, timeline=timeline)
    say = print if is_first() else lambda *_, **__: None
    say(describe(job, from_model), flush=True)
    say(f"loaded in   {time.time() - started:.0f} s; results go into {workdir}", flush=True)
    checkpoints = Checkpoints(workdir / folder.CHECKPOINTS)
    state = take_up(job, workdir, checkpoints)
    with run_logs.opened(job, workdir, int(state.step)) as logs:
        previews = Previews(job, workdir, logs)
        if int(state.step):
            say(f"resumed at step {int(state.step)} of {config.steps}")
            _write_rows(job, workdir, state)
        with _stop_on_signal() as signalled:
            stopped = lambda: any_process(signalled() or should_stop())
            state, done = _train_steps(
                job, state, workdir, checkpoints, logs, previews, stopped, still_ours, on_progress, timeline
            )
    checkpoints.close()
    if any_process(signalled()):  # also after the last step: what comes after this run must not start
        raise KeyboardInterrupt(f"stopped at step {done}, checkpoint written; give the same command to resume")
    if done < config.steps:
        return np.asarray(state.rows)
    still_ours()
    for number, run in enumerate(job.runs):
        report(job, number, workdir / run.name, state.rows, previews.drawn[number])
    names = "contact_sheet.png, training.png, previews"
    where = workdir if len(job.runs) == 1 else f"each run's folder in {workdir}"
    say(f"pictures: {names} in {where}")
    return np.asarray(state.rows)


def learn(
    config: ConfigDict | Settings,
    workdir: epath.PathLike,
    *,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Sequence[folder.LearnedRun]:
    """Learns a relation; returns one `LearnedRun` for each run of the config.

    Takes the arguments of `training.loop.train`, and raises the same errors.
    """
    path = epath.Path(workdir)
    train(config, path, on_progress=on_progress, should_stop=should_stop)
    names = settings.each_run(settle(config))
    return [folder.read(path / name) for name in names]
