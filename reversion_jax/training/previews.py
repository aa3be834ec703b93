"""Draws the pictures that show the progress of training."""

from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from reversion_jax.drawing import pictures
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job
from reversion_jax.training.report import draw
from reversion_jax.training.run_logs import RunLog


class Previews:
    """Draws each run's preview prompts, and keeps the first and the last pictures for the report."""

    def __init__(self, job: Job, workdir: epath.Path, logs: Sequence[RunLog]):
        self._job, self._workdir, self._logs = job, workdir, logs
        self.drawn: list[dict[int, np.ndarray]] = [{} for _ in job.runs]  # for each run, pictures by step

    def draw(self, learned: jax.Array, at: int) -> None:
        """Draws previews with the rows [R, P, D] of step `at`, and writes the pictures into each run's folder."""
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
                grid = pictures.grid(images)
                pictures.save_png(path, grid, {"prompts": "\n".join(run.config.preview_prompts)})
                self._logs[number].picture(grid, at)
