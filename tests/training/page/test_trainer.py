"""Tests that only one run trains in the background, and that a resumed run equals an uninterrupted run."""

import dataclasses
import threading
import time
import types

import numpy as np
import pytest
from tiny_run import changed

from reversion_jax.runs import folder
from reversion_jax.runtime.errors import warn
from reversion_jax.training.loop import learn
from reversion_jax.training.page import start, trainer
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.trainer import Trainer
from reversion_jax.training.watch import Progress


class Pretended:
    """Replaces `learn` and pretends to take steps until it is stopped."""

    def __init__(self, steps: int = 3, error: Exception | None = None):
        self.steps, self.error, self.go = steps, error, threading.Event()

    def __call__(self, config, workdir, *, on_progress, should_stop):
        self.go.wait(10)
        warn("a picture is squashed")
        for step in range(1, self.steps + 1):
            if should_stop():
                return [types.SimpleNamespace(step=step - 1)]
            on_progress(Progress(step, self.steps, {}))
        if self.error:
            raise self.error
        return [types.SimpleNamespace(step=self.steps)]


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Catches the warnings of `Pretended`."""


def test_only_one_run_trains_at_a_time(tmp_path):
    learning = Pretended()
    one = Trainer(learning)
    assert not one.state.under_way
    one.start("hug", None, tmp_path, 3)
    assert (one.state.stage, one.state.name) == (trainer.PREPARING, "hug")
    with pytest.raises(ValueError, match="hug is being learned, and this device learns one relation at a time"):
        one.start("on", None, tmp_path, 3)
    with pytest.raises(ValueError, match="hug is being learned"):
        start.start(Place(tmp_path), one, {}, drawn=True)
    with pytest.raises(ValueError, match="hug is being learned"):
        start.take_up(Place(tmp_path), one, "hug", 3)
    learning.go.set()
    state = one.wait(10)
    assert (state.stage, state.step, state.notes) == (trainer.FINISHED, 3, ("a picture is squashed",))
    one.start("on", None, tmp_path, 3)
    assert one.wait(10).name == "on"
    one.stop()
    assert one.state.stage == trainer.FINISHED  # stopping a finished run does nothing


def test_training_can_be_stopped_before_its_first_step(tmp_path):
    learning = Pretended()
    one = Trainer(learning)
    one.stop()
    one.start("hug", None, tmp_path, 3)
    one.stop()
    assert one.state.stage == trainer.STOPPING
    learning.go.set()
    assert (one.wait(10).stage, one.state.step) == (trainer.STOPPED, 0)


@pytest.mark.parametrize(
    ("error", "says"),
    [(FloatingPointError("the rows ran away"), "The rows ran away."), (RuntimeError("ours"), "you did not cause")],
)
def test_an_error_of_training_becomes_one_sentence(tmp_path, error, says):
    learning = Pretended(error=error)
    learning.go.set()
    one = Trainer(learning)
    one.start("hug", None, tmp_path, 3)
    state = one.wait(10)
    assert state.stage == trainer.FAILED
    assert says in state.message
    assert not state.under_way


def test_the_remaining_time_is_estimated_from_the_steps_so_far():
    state = trainer.State("hug", trainer.TRAINING, step=30, steps=50, first=10, since=time.monotonic() - 40)
    assert state.seconds_left() == pytest.approx(40, rel=0.01)
    assert dataclasses.replace(state, step=10).seconds_left() is None
    assert dataclasses.replace(state, stage=trainer.STOPPING).seconds_left() is None


def test_a_run_resumed_by_the_page_equals_an_uninterrupted_run_bit_for_bit(config, finished, tmp_path):
    """The app restarts before it resumes the run, so it knows only the run's folder."""
    place, stopping = Place(tmp_path), Trainer()

    def learn_and_stop(config, workdir, *, on_progress, should_stop):
        def seen(progress):
            on_progress(progress)
            stopping.stop()

        return learn(config, workdir, on_progress=seen, should_stop=should_stop)

    stopping._learn = learn_and_stop
    stopping.start("on", changed(config, preview_every_steps=0), place.path("on"), 6)
    state = stopping.wait(120)
    assert (state.stage, state.message) == (trainer.STOPPED, "")
    assert 2 <= state.step < 6
    (listed,) = place.runs()
    assert (listed.step, listed.wanted()) == (state.step, 6)
    again = Trainer()
    with pytest.raises(ValueError, match="steps already"):
        start.take_up(place, again, "on", state.step)
    assert start.take_up(place, again, "on", 6) == "on"
    assert (again.wait(120).stage, again.state.message) == (trainer.FINISHED, "")
    np.testing.assert_array_equal(folder.read(place.run("on")).rows, folder.read(finished[0]).rows)
    with pytest.raises(ValueError, match="on has 6 steps already"):
        start.take_up(place, again, "on", 6)
