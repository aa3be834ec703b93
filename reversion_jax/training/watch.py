"""Watches training: writes each run's metrics, moves the progress bar, and stops a run that is not finite."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from reversion_jax.inversion import step
from reversion_jax.runs import history
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job
from reversion_jax.training.report import look


class Progress(NamedTuple):
    """How far training is, for its caller."""

    step: int
    steps: int
    runs: Mapping[str, Mapping[str, Any]]  # by name: the newest record of each run's metrics.jsonl


class Watcher:
    """Handles the metrics of one dispatch while the device computes the next."""

    def __init__(self, job: Job, workdir: epath.Path, first: int, on_progress: Callable[[Progress], None] | None):
        self._job, self._workdir, self._on_progress = job, workdir, on_progress
        self._pending: tuple[int, int, step.Metrics, jax.Array] | None = None
        steps = job.config.steps
        self.bar = tqdm(
            total=steps, initial=first, desc="training", mininterval=0.5, unit="step", disable=not is_first()
        )

    def push(self, first: int, count: int, metrics: step.Metrics, learned: jax.Array) -> None:
        """Takes a dispatch's metrics [capacity, R] and rows [R, P, D], and handles those of the one before."""
        self.flush()
        self._pending = (first, count, metrics, learned)

    def flush(self) -> None:
        """Waits for the last dispatch; FloatingPointError, with run and step, if a loss was not finite."""
        if self._pending is None:
            return
        first, count, metrics, learned = self._pending
        self._pending = None
        losses = {name: np.asarray(values)[:count] for name, values in metrics._asdict().items()}
        self._check(losses, np.asarray(learned), first, count)
        seen = look(self._job, learned)
        newest = {}
        for number, run in enumerate(self._job.runs):
            of_run = {name: values[:, number].tolist() for name, values in losses.items()}
            records = [{"step": first + i + 1} | {name: of_run[name][i] for name in of_run} for i in range(count)]
            records[-1] |= seen[number]
            newest[run.name] = records[-1]
            if is_first():
                history.append(self._workdir / run.name / history.NAME, records)
        if is_first():
            self._show(losses, seen, count)
        if self._on_progress:
            self._on_progress(Progress(first + count, self._job.config.steps, newest))

    def _check(self, losses: Mapping[str, np.ndarray], learned: np.ndarray, first: int, count: int) -> None:
        """FloatingPointError if a loss [count, R] or a run's rows, of [R, P, D], are not finite."""
        finite = np.isfinite(learned).all(axis=(1, 2))
        for number, run in enumerate(self._job.runs):
            of_run = f" of {run.name}" if run.name else ""
            for name, values in losses.items():
                if not np.isfinite(values[:, number]).all():
                    at = int(np.argmin(np.isfinite(values[:, number])))
                    value = f"{values[at, number]} at step {first + at + 1}"
                    raise FloatingPointError(f"the {name} loss{of_run} is {value}: lower the rate")
            if not finite[number]:
                raise FloatingPointError(f"the rows{of_run} are not finite at step {first + count}: lower the rate")

    def _show(self, losses: Mapping[str, np.ndarray], seen: list[dict[str, Any]], count: int) -> None:
        """Moves the bar; beside it the losses' means over steps and runs."""
        self.bar.update(count)
        shown = {name: f"{values.mean():.4f}" for name, values in losses.items()}
        if len(seen) == 1:
            shown["nearest"] = " ".join(word for word, _ in seen[0]["nearest"][:3])
        self.bar.set_postfix(shown)
