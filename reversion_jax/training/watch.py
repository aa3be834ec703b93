"""Watches training: writes each run's metrics, updates the progress bar, and stops runs that diverge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from reversion_jax.inversion import rows, step
from reversion_jax.models.clip import token_table
from reversion_jax.runs import history
from reversion_jax.runtime.errors import warn
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job, Run
from reversion_jax.training.report import look
from reversion_jax.training.run_logs import RunLog

# A row whose norm is this many times the median norm of the model's words has diverged. At sensible learning rates the
# norm stays below 5 times the median.
RUNAWAY = 20.0
# A row that has moved by less than this share of its norm still means the same as the word that it started from.
REST = 0.01


class Progress(NamedTuple):
    """The progress of training, as `on_progress` receives it."""

    step: int  # steps done
    steps: int  # steps in all
    runs: Mapping[str, Mapping[str, Any]]  # the newest record of each run's metrics.jsonl, by the run's name


class Watcher:
    """Checks and writes the metrics of one dispatch of training steps while the device computes the next dispatch."""

    def __init__(
        self,
        job: Job,
        workdir: epath.Path,
        logs: Sequence[RunLog],
        first: int,
        on_progress: Callable[[Progress], None] | None,
    ):
        self._job, self._workdir, self._logs, self._on_progress = job, workdir, logs, on_progress
        self._pending: tuple[int, int, step.Metrics, jax.Array] | None = None
        steps = job.config.steps
        starts = np.linalg.norm(np.asarray(job.first_rows), axis=-1).max(axis=-1)
        self._usual = np.maximum(float(rows.median_norm(token_table(job.sd.params))), starts)  # [R]
        self.bar = tqdm(
            total=steps, initial=first, desc="training", mininterval=0.5, unit="step", disable=not is_first()
        )

    def push(self, first: int, count: int, metrics: step.Metrics, learned: jax.Array) -> None:
        """Calls `flush` for the previous dispatch, then stores a dispatch's metrics [capacity, R] and rows [R, P, D].

        first: steps done before the dispatch. count: steps in the dispatch.
        """
        self.flush()
        self._pending = (first, count, metrics, learned)

    def flush(self) -> None:
        """Waits until the stored dispatch is computed, then checks and writes the dispatch's metrics.

        Raises FloatingPointError, naming the run and the step, if the run has diverged.
        """
        if self._pending is None:
            return
        first, count, metrics, learned = self._pending
        self._pending = None
        losses = {name: np.asarray(values)[:count] for name, values in metrics._asdict().items()}
        self._check(losses, np.asarray(learned), first, count)
        seen = look(self._job, learned)
        self._check_norms(np.asarray(learned), first + count)
        newest = {}
        for number, run in enumerate(self._job.runs):
            of_run = {name: values[:, number].tolist() for name, values in losses.items()}
            records = [{"step": first + i + 1} | {name: of_run[name][i] for name in of_run} for i in range(count)]
            records[-1] |= seen[number]
            newest[run.name] = records[-1]
            if is_first():
                history.append(self._workdir / run.name / history.NAME, records)
                self._logs[number].metrics(records)
        if is_first():
            self._show(losses, seen, count)
        if self._on_progress:
            self._on_progress(Progress(first + count, self._job.config.steps, newest))

    def _check(self, losses: Mapping[str, np.ndarray], learned: np.ndarray, first: int, count: int) -> None:
        """Raises FloatingPointError if the losses, [count, R] each, or the rows, [R, P, D], are not finite."""
        finite = np.isfinite(learned).all(axis=(1, 2))
        for number, run in enumerate(self._job.runs):
            for name, values in losses.items():
                if not np.isfinite(values[:, number]).all():
                    at = first + int(np.argmin(np.isfinite(values[:, number]))) + 1
                    value = values[at - first - 1, number]
                    raise FloatingPointError(
                        f"the {name} loss{_of(run)} is {value} at step {at}: {self._cause(run, at)}"
                    )
            if not finite[number]:
                cause = self._cause(run, first + count)
                raise FloatingPointError(f"the rows{_of(run)} are not finite at step {first + count}: {cause}")

    def _cause(self, run: Run, at: int) -> str:
        """Returns the likely cause if numbers are not finite at the step `at`, and a remedy.

        At step 1 the rows are still the initialiser's, so the learning rate cannot be the cause.
        """
        if at > 1:
            return f"lower config.learning_rate, which is {run.config.learning_rate:g}"
        if self._job.config.precision not in ("float32", "tensorfloat32"):
            return f"{self._job.config.precision} is too narrow for this model: set config.precision to float32"
        return "the model turns the exemplars into such numbers before it learns: try another copy of the model"

    def _check_norms(self, learned: np.ndarray, at: int) -> None:
        """Raises FloatingPointError if rows [R, P, D] have norms so large that the text encoder cannot use the rows."""
        norms = np.linalg.norm(learned, axis=-1).max(axis=-1)
        for run, norm, usual in zip(self._job.runs, norms, self._usual, strict=True):
            if norm > RUNAWAY * usual:
                raise FloatingPointError(
                    f"the rows{_of(run)} diverged: at step {at} their norm is {norm:.3g}, but the usual norm is "
                    f"{usual:.2g}: lower config.learning_rate, which is {run.config.learning_rate:g}"
                )

    def warn_of_rest(self, learned: np.ndarray) -> None:
        """Warns of each run whose first row of <R> has hardly moved. learned: rows [R, P, D]."""
        first = np.asarray(self._job.first_rows)[:, 0]
        moved = np.linalg.norm(learned[:, 0] - first, axis=-1) / np.maximum(np.linalg.norm(first, axis=-1), 1e-12)
        for run, share in zip(self._job.runs, moved, strict=True):
            if share < REST:
                warn(
                    f"<R>{_of(run)} has moved by only {share:.2%} of its norm, so it still means "
                    f"{run.config.initialiser!r}: raise config.steps, or config.learning_rate, which is "
                    f"{run.config.learning_rate:g}"
                )

    def _show(self, losses: Mapping[str, np.ndarray], seen: list[dict[str, Any]], count: int) -> None:
        """Updates the progress bar, and shows beside it the mean of each loss over steps and runs."""
        self.bar.update(count)
        shown = {name: f"{values.mean():.4f}" for name, values in losses.items()}
        if len(seen) == 1:
            shown["nearest"] = " ".join(word for word, _ in seen[0]["nearest"][:3])
        self.bar.set_postfix(shown)


def _of(run: Run) -> str:
    """Returns " of NAME" for messages if there are several runs, else ""."""
    return f" of {run.name}" if run.name else ""
