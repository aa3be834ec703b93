"""Sends each run's metrics and previews to TensorBoard and Weights & Biases (W&B), if config.log_to names them.

metrics.jsonl is always written, see runs/history.py. When a run is resumed, the logs get the steps that they miss from
metrics.jsonl. The packages for TensorBoard and W&B are imported only if they are used.
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

# tensorboardX writes TensorBoard's logs without TensorFlow or PyTorch.
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
WANDB_ID = "wandb_id.txt"  # file in the run's folder with the id of its run on W&B


class _Log(Protocol):
    """One run's log in one tool, TensorBoard or W&B."""

    first_step: int  # the first step that the log does not have yet

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Adds a record of metrics.jsonl to the log."""

    def picture(self, image: np.ndarray, step: int) -> None:
        """Adds a grid of previews, uint8 [H, W, 3], to the log."""

    def flush(self) -> None:
        """Writes or sends everything that was added to the log."""


class RunLog:
    """One run's logs in all tools that config.log_to names."""

    def __init__(self, logs: Sequence[_Log]):
        self._logs = logs

    def metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records of metrics.jsonl to the logs."""
        for log in self._logs:
            for record in records:
                if record["step"] >= log.first_step:
                    log.metrics(record)
            log.flush()

    def picture(self, image: np.ndarray, step: int) -> None:
        """Adds a grid of previews, uint8 [H, W, 3], to the logs."""
        for log in self._logs:
            if step >= log.first_step:
                log.picture(image, step)

    def catch_up(self, folder: epath.Path, done: int) -> None:
        """Writes the metrics and previews of the run's folder, up to step `done`, into the logs that miss them."""
        records = {record["step"]: record for record in history.read(folder / history.NAME)}
        previews = runs.previews(folder)
        for step in sorted(number for number in {*records, *previews} if number <= done):
            if step in records:
                self.metrics([records[step]])
            if step in previews:
                try:
                    with previews[step].open("rb") as file:
                        self.picture(np.asarray(Image.open(file).convert("RGB")), step)
                except (OSError, SyntaxError, ValueError) as error:  # Pillow raises these for damaged files
                    warn(f"{previews[step]} cannot be read ({error}), so the logs do not get it")


def check(config: Settings, workdir: epath.Path) -> None:
    """Raises ValueError if config.log_to needs a missing package, or needs a local folder and `workdir` is remote."""
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
    """Opens a log for each run of the job, and adds the steps up to `done` that the log misses.

    The logs are closed when the `with` body ends; if the body raises an error, W&B marks the run as failed. If there
    are several processes, only the first process writes logs. Raises ValueError if W&B does not open a run.
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
    """Returns the words nearest to <R> as text; "" if the record does not have them."""
    return ", ".join(f"{word} {cosine:.2f}" for word, cosine in record.get("nearest", ()))


class _TensorBoard:
    """One run's log for TensorBoard, in the folder `tensorboard` of the run's folder."""

    first_step = 0

    def __init__(self, writer: Any):
        self._writer = writer

    @classmethod
    @contextlib.contextmanager
    def open(cls, run: Run, workdir: epath.Path, done: int) -> Iterator["_TensorBoard"]:
        """Deletes an earlier log and opens a new, empty log.

        A crash can lose a log's newest events, and tensorboardX cannot read a log to find out which events are lost.
        So `catch_up` fills the new log from the run's folder.
        """
        from tensorboardX import SummaryWriter

        folder = workdir / run.name / "tensorboard"
        before = list(folder.glob("events.out.tfevents.*"))
        for path in before:
            path.unlink()
        # purge_step makes a TensorBoard that is running drop the events that it has read from the earlier log.
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
    """One run's log on Weights & Biases."""

    def __init__(self, run: Any):
        # W&B accepts each step only once. The steps that an earlier process sent are the same, bit for bit.
        self._run, self.first_step = run, run.starting_step

    @classmethod
    @contextlib.contextmanager
    def open(cls, run: Run, workdir: epath.Path, done: int) -> Iterator["_WandB"]:
        """Resumes the W&B run whose id is in the run's folder.

        At step 0, starts a new W&B run instead, because settings may differ.
        """
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
                reinit="create_new",  # several W&B runs are open in one process
                dir=None if files.is_remote(folder) else os.fspath(folder),
                config=dataclasses.asdict(run.config),
            )
        except Exception as error:  # the errors of W&B and of its HTTP client have no common base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"config.log_to: W&B does not accept the run ({reason}): run wandb login, or set WANDB_MODE=offline"
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
        """Does nothing, because W&B sends the log from its own process."""


_OPEN: Mapping[str, Callable[[Run, epath.Path, int], contextlib.AbstractContextManager[_Log]]] = {
    "tensorboard": _TensorBoard.open,
    "wandb": _WandB.open,
}
