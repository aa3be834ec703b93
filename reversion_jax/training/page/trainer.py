"""Trains in the background, one run at a time, so that the page keeps responding.

Training runs in a thread, because a second process could not use the GPU's memory, which this process has taken
for drawing.
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

# Stages of a run. In the stages PREPARING, TRAINING and STOPPING, the run is in progress.
PREPARING, TRAINING, STOPPING = "preparing", "training", "stopping"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclasses.dataclass(frozen=True)
class State:
    """The state of the current run, or of the last run."""

    name: str = ""  # the run's name; "" before the first run
    stage: str = ""
    step: int = 0  # steps done
    steps: int = 0  # steps in total
    first: int = 0  # the step at the first report of progress
    since: float = 0.0  # time.monotonic() at the first report of progress; 0: no report yet
    message: str = ""  # why the run failed
    notes: tuple[str, ...] = ()  # the library's warnings

    @property
    def under_way(self) -> bool:
        return self.stage in (PREPARING, TRAINING, STOPPING)

    def seconds_left(self) -> float | None:
        """Returns an estimate of the remaining time, s; None if it is not known yet."""
        done = self.step - self.first
        if self.stage != TRAINING or done <= 0:
            return None
        return (time.monotonic() - self.since) / done * (self.steps - self.step)


class Trainer:
    """Runs `learn` in a thread, one run at a time."""

    def __init__(self, learn: Callable[..., Sequence[Any]] = learn):
        self._learn = learn
        self._lock = threading.RLock()  # held while the state is read and changed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.state = State()

    def start(self, name: str, config: Any, workdir: Path, steps: int) -> None:
        """Starts or resumes a run. Raises ValueError if a run is in progress."""
        with self._lock:
            self.refuse_while_busy()
            self._stop.clear()
            self.state = State(name, PREPARING, steps=steps)
            # A daemon thread lets a second Ctrl-C end the app at once; steps after the last checkpoint are lost.
            self._thread = threading.Thread(target=self._run, args=(config, workdir), name="training", daemon=True)
            self._thread.start()

    def refuse_while_busy(self) -> None:
        """Raises ValueError if a run is in progress."""
        if self.state.under_way:
            raise ValueError(
                f"{self.state.name} is being learned, and this device learns one relation at a time: wait until it is "
                "finished, or stop it"
            )

    def refuse_without_memory(self) -> None:
        """Raises ValueError if a run is in progress on a GPU or TPU, because the run needs all memory of the device."""
        if self.state.under_way and jax.default_backend() != "cpu":
            raise ValueError(
                f"{self.state.name} is being learned and needs the device's memory: wait until it is finished, or "
                "stop it"
            )

    def stop(self) -> None:
        """Makes the current run, if there is one, stop after its current steps and write a checkpoint."""
        with self._lock:
            if self.state.under_way:
                self._stop.set()
                self._change(stage=STOPPING)

    def wait(self, timeout: float | None = None) -> State:
        """Waits until the run has ended, or for at most `timeout` seconds; returns the state."""
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
            except Exception as error:  # the page shows the error
                self._change(stage=FAILED, message=sentence(error), notes=tuple(notes))

    def _on_progress(self, progress: Progress) -> None:
        stage = STOPPING if self._stop.is_set() else TRAINING
        began = {} if self.state.since else {"first": progress.step, "since": time.monotonic()}
        self._change(stage=stage, step=progress.step, steps=progress.steps, **began)

    def _change(self, **values: Any) -> None:
        with self._lock:
            self.state = dataclasses.replace(self.state, **values)
