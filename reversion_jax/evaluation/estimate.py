"""Estimates the time and the disk space of an evaluation, from a few timed steps and pictures."""

import io
import time
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from reversion_jax.config import Settings
from reversion_jax.drawing import generate
from reversion_jax.training.prepare import advance, first_state, prepare
from reversion_jax.weights.load import Model

_TIMED_STEPS = 3


def step_seconds(job: Settings) -> float:
    """Returns the time of one training step of all runs of a job, in s, without the time to compile the step."""
    prepared = prepare(job)
    state = first_state(prepared)
    seconds, timed = 0.0, 1 if prepared.is_slow else _TIMED_STEPS
    for count in (1, timed):  # the first call also compiles, and is not counted
        began = time.perf_counter()
        state, _ = advance(prepared, state, count, job.steps_per_dispatch)
        jax.block_until_ready(state.rows)
        seconds = time.perf_counter() - began
    return seconds / timed


class PictureCost(NamedTuple):
    """The time and the disk space that one picture needs."""

    seconds: float  # time to draw the picture
    bytes: int  # size of the picture's PNG


def picture_cost(model: Model, config: Settings, text: str) -> PictureCost:
    """Measures the cost of a picture of the prompt `text`, from one batch. The time to compile is not included."""
    sampling = generate.Sampling.of(config)
    images, seconds = np.zeros(0), 0.0
    for _ in range(2):
        began = time.perf_counter()
        images = generate.draw(
            model.sd, model.tokenizer, [text] * sampling.batch_size, range(sampling.batch_size), sampling=sampling
        )
        seconds = (time.perf_counter() - began) / len(images)
    file = io.BytesIO()
    Image.fromarray(generate.to_uint8(images[0])).save(file, "PNG")
    return PictureCost(seconds, len(file.getvalue()))


def duration(seconds: float) -> str:
    """Formats a duration, such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
