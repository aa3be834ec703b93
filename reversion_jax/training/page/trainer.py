"""Trains in the background, one run at a time, so that the page stays alive.

It is a thread, not a process of its own: a second process would find a GPU's memory taken by the one that draws.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from reversion_jax.training.loop import learn
from reversion_jax.training.page.faults import heard, sentence
from reversion_jax.training.watch import Progress

# Stages of a run. The first three are under way.
PREPARING, TRAINING, STOPPING = "preparing", "training", "stopping"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclasses.dataclass(frozen=True)
class State:
    """What the trainer does, or did last."""

    name: str = ""  # the run's; "" before the first one
    stage: str = ""
    step: int = 0
    steps: int = 0
    first: int = 0  # the step that it began at, and when
    since: float = 0.0
    message: str = ""  # why it failed
    notes: tuple[str, ...] = ()  # what the library warned of

    @property
    def under_way(self) -> bool:
        return self.stage in (PREPARING, TRAINING, STOPPING)

    def seconds_left(self) -> float | None:
        """About how long it still takes; None as long as that is not known."""
        done = self.step - self.first
        if self.stage != TRAINING or done <= 0:
            return None
        return (time.monotonic() - self.since) / done * (self.steps - self.step)


class Trainer:
    """Runs `learn` in a thread."""

    def __init__(self, learn: Callable[..., Sequence[Any]] = learn):
        self._learn = learn
        self._lock = threading.RLock()  # whoever reads the state to change it holds it
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.state = State()

    def start(self, name: str, config: Any, workdir: Path, steps: int) -> None:
        """Starts a run, or takes it up. ValueError if one is under way."""
        with self._lock:
            self.refuse_while_busy()
            self._stop.clear()
            self.state = State(name, PREPARING, steps=steps)
            # A daemon: a second Ctrl-C ends the app at once, and what was not in a checkpoint is lost.
            self._thread = threading.Thread(target=self._run, args=(config, workdir), name="training", daemon=True)
            self._thread.start()

    def refuse_while_busy(self) -> None:
        """ValueError if a training is under way."""
        if self.state.under_way:
            raise ValueError(
                f"{self.state.name} is being learned, and this device learns one relation at a time: wait for it, or "
                "stop it"
            )

    def refuse_without_memory(self) -> None:
        """ValueError if a training is under way that was given all memory of a GPU or TPU."""
        if self.state.under_way and jax.default_backend() != "cpu":
            raise ValueError(
                f"{self.state.name} is being learned and needs the device's memory: wait for it, or stop it"
            )

    def stop(self) -> None:
        """Asks the run, if there is one, to stop after the steps under way, with a checkpoint."""
        with self._lock:
            if self.state.under_way:
                self._stop.set()
                self._change(stage=STOPPING)

    def wait(self, timeout: float | None = None) -> State:
        """Waits until the run has ended; returns the state then."""
        if self._thread:
            self._thread.join(timeout)
        return self.state

    def _run(self, config: Any, workdir: Path) -> None:
        with heard() as notes:
            try:
                runs = self._learn(config, workdir, on_progress=self._on_progress, should_stop=self._stop.is_set)
                done = runs[0].step
                stage = FINISHED if done >= self.state.steps else STOPPED
                self._change(stage=stage, step=done, notes=tuple(notes))
            except Exception as error:  # the page says what it was
                self._change(stage=FAILED, message=sentence(error), notes=tuple(notes))

    def _on_progress(self, progress: Progress) -> None:
        stage = STOPPING if self._stop.is_set() else TRAINING
        began = {} if self.state.since else {"first": progress.step, "since": time.monotonic()}
        self._change(stage=stage, step=progress.step, steps=progress.steps, **began)

    def _change(self, **values: Any) -> None:
        with self._lock:
            self.state = dataclasses.replace(self.state, **values)
