"""TensorBoard and Weights & Biases: each run's metrics and previews, where config.log_to asks for them.

metrics.jsonl is always written, see runs/history.py. When a run goes on, these logs get from it what they lack. Neither
package is imported unless it is asked for.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath
from PIL import Image

from reversion_jax.config import Settings
from reversion_jax.runs import folder as runs
from reversion_jax.runs import history
from reversion_jax.runtime import files
from reversion_jax.runtime.errors import warn
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job, Run

# tensorboardX, because TensorBoard's own writers come with TensorFlow or PyTorch.
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
WANDB_ID = "wandb_id.txt"  # in the run's folder: the run on W&B that it goes on with


class _Log(Protocol):
    """One run's log in one tool."""

    first_step: int  # it has everything before this step already

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Takes a record of metrics.jsonl."""

    def picture(self, image: np.ndarray, step: int) -> None:
        """Takes a grid of previews, uint8 [H, W, 3]."""

    def flush(self) -> None:
        """Hands over what it has taken."""


class RunLog:
    """One run's logs in all tools that it is written to."""

    def __init__(self, logs: Sequence[_Log]):
        self._logs = logs

    def metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes records of metrics.jsonl."""
        for log in self._logs:
            for record in records:
                if record["step"] >= log.first_step:
                    log.metrics(record)
            log.flush()

    def picture(self, image: np.ndarray, step: int) -> None:
        """Writes a grid of previews, uint8 [H, W, 3]."""
        for log in self._logs:
            if step >= log.first_step:
                log.picture(image, step)

    def catch_up(self, folder: epath.Path, done: int) -> None:
        """Writes what the run's folder has of the steps up to `done` and the logs lack."""
        records = {record["step"]: record for record in history.read(folder / history.NAME)}
        previews = runs.previews(folder)
        for step in sorted(number for number in {*records, *previews} if number <= done):
            if step in records:
                self.metrics([records[step]])
            if step in previews:
                try:
                    with previews[step].open("rb") as file:
                        self.picture(np.asarray(Image.open(file).convert("RGB")), step)
                except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
                    warn(f"{previews[step]} is left out of the logs, as it cannot be read ({error})")


def check(config: Settings, workdir: epath.Path) -> None:
    """ValueError, one line, if config.log_to needs a missing package, or a folder of this machine."""
    for name in config.logs:
        package = _PACKAGES[name]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"config.log_to={config.log_to!r} needs {package} ({error}): pip install {package}"
            ) from error
    if "tensorboard" in config.logs and files.is_remote(workdir):
        raise ValueError(f"config.log_to={config.log_to!r}: TensorBoard's log needs a folder of this machine")


@contextlib.contextmanager
def opened(job: Job, workdir: epath.Path, done: int) -> Iterator[list[RunLog]]:
    """A log for each of the job's runs, complete up to step `done`; of several processes only the first one writes.

    They are closed at the end, on W&B as failed if the body raises. ValueError, one line, if W&B refuses.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for run in job.runs:
            names = job.config.logs if is_first() else ()
            found.append(RunLog([stack.enter_context(_OPEN[name](run, workdir, done)) for name in names]))
            if names and done:
                found[-1].catch_up(workdir / run.name, done)
        yield found


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, float)}


def _nearest(record: Mapping[str, Any]) -> str:
    """The words that <R> is nearest to, for people; empty where the record does not say."""
    return ", ".join(f"{word} {cosine:.2f}" for word, cosine in record.get("nearest", ()))


class _TensorBoard:
    first_step = 0

    def __init__(self, writer: Any):
        self._writer = writer

    @classmethod
    @contextlib.contextmanager
    def open(cls, run: Run, workdir: epath.Path, done: int) -> Iterator["_TensorBoard"]:
        """Writes the log anew: tensorboardX can lose its newest events in a crash, and cannot read what it has."""
        from tensorboardX import SummaryWriter

        folder = workdir / run.name / "tensorboard"
        before = list(folder.glob("events.out.tfevents.*"))
        for path in before:
            path.unlink()
        # purge_step: a TensorBoard that is open forgets what it has read.
        with SummaryWriter(os.fspath(folder), purge_step=0 if before else None) as writer:
            settings = json.dumps(dataclasses.asdict(run.config), indent=2)
            writer.add_text("settings", f"```json\n{settings}\n```", 0)
            yield cls(writer)

    def metrics(self, record: Mapping[str, Any]) -> None:
        for name, value in _scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])
        if nearest := _nearest(record):
            self._writer.add_text("nearest_words", nearest, record["step"])

    def picture(self, image: np.ndarray, step: int) -> None:
        self._writer.add_image("previews", image, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()


class _WandB:
    def __init__(self, run: Any):
        # What W&B has of an earlier process is the same to the bit, and it takes no step twice.
        self._run, self.first_step = run, run.starting_step

    @classmethod
    @contextlib.contextmanager
    def open(cls, run: Run, workdir: epath.Path, done: int) -> Iterator["_WandB"]:
        """Goes on with the run on W&B that the run's folder names; at step 0 starts another, as settings may differ."""
        import wandb

        folder = workdir / run.name
        path = folder / WANDB_ID
        if not done or not path.exists():
            files.write(path, secrets.token_hex(4) + "\n")
        try:
            started = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "reversion_jax"),
                name="/".join(filter(None, (workdir.name, run.name))),
                group=workdir.name if run.name else None,
                id=path.read_text().strip(),
                resume="allow",
                reinit="create_new",  # the runs of one program are open together
                dir=None if files.is_remote(folder) else os.fspath(folder),
                config=dataclasses.asdict(run.config),
            )
        except Exception as error:  # W&B's errors and its HTTP client's have no common ancestor
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"config.log_to: W&B refuses ({reason}): run wandb login, or set WANDB_MODE=offline"
            ) from error
        with started:
            yield cls(started)

    def metrics(self, record: Mapping[str, Any]) -> None:
        nearest = _nearest(record)
        self._run.log({**_scalars(record), **({"nearest_words": nearest} if nearest else {})}, step=record["step"])

    def picture(self, image: np.ndarray, step: int) -> None:
        import wandb

        self._run.log({"previews": wandb.Image(image)}, step=step)

    def flush(self) -> None:
        """Nothing to do: W&B has a process of its own that sends."""


_OPEN: Mapping[str, Callable[[Run, epath.Path, int], contextlib.AbstractContextManager[_Log]]] = {
    "tensorboard": _TensorBoard.open,
    "wandb": _WandB.open,
}
