"""Defines what a run's folder contains, and reads it. The folder is complete and may be copied anywhere.

    config.json                    the settings, and their origin: the base model and its hash, versions, device
    rows.safetensors               the newest rows of <R> and <R-inv>
    rows/step_000500.safetensors   the rows at each checkpoint
    metrics.jsonl, previews/, contact_sheet.png, training.png
    tensorboard/; wandb/ and wandb_id.txt    only if config.log_to asks for them

Several runs that train together have one folder each. The checkpoints of all these runs are in one folder beside the
runs' folders, and are only used to resume training. So is startup.json, which says when the main parts of the command's
start began and ended.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from reversion_jax import config
from reversion_jax.config import Settings
from reversion_jax.inversion.prompts import INVERSE, PLACEHOLDERS
from reversion_jax.runtime import files
from reversion_jax.runtime.errors import warn

CONFIG, NEWEST, CHECKPOINTS = "config.json", "rows.safetensors", "checkpoints"
_ORIGIN = "origin"  # the key in config.json whose value is not a setting


class LearnedRun(NamedTuple):
    """The rows that a run has learned, and its settings."""

    settings: Settings
    rows: np.ndarray  # float32 [P, D], P rows of D numbers each: the rows of <R>, then the rows of <R-inv>
    step: int  # number of training steps after which these rows were saved

    def words(self) -> dict[str, np.ndarray]:
        """Returns the rows [S, D] of each token. <R-inv> is among the tokens only if the run had inverse prompts."""
        words = dict(zip(PLACEHOLDERS, np.split(self.rows, len(PLACEHOLDERS)), strict=True))
        if not self.settings.inverse_share:
            del words[INVERSE]
        return words

    def describe(self) -> str:
        """Returns a line that says how the words were learned."""
        s = self.settings
        return f"{s.relation} by {s.method}, {self.step} of {s.steps} steps trained"


def write_settings(folder: epath.Path, settings: Settings, origin: Mapping[str, Any]) -> None:
    """Writes config.json. origin: base model and its hash, versions, device."""
    values = {_ORIGIN: dict(origin), **dataclasses.asdict(settings)}
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / CONFIG, json.dumps(values, indent=2) + "\n")


def read_settings(folder: epath.Path) -> tuple[Settings, dict[str, Any]]:
    """Reads config.json; returns the settings and the origin. Settings that the file lacks have their defaults.

    Raises ValueError if the file is damaged, OSError if it cannot be read.
    """
    path = folder / CONFIG
    try:
        values = files.from_json(path.read_text())
        origin = values.pop(_ORIGIN, {})
        return config.from_dict(_renamed(values, origin)), origin
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or train again in another --workdir") from error


def _renamed(values: dict[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings that an earlier version wrote, with today's names and values."""
    is_old = "runs_at_once" in values
    if is_old and values.get("precision") == "float32" and origin.get("device", "cpu") != "cpu":
        values["precision"] = "tensorfloat32"  # what "float32" meant in old versions, except on CPUs
    if values.get("negatives") == "vocabulary" and "inverse_prompts" not in values:
        values["negatives"] = "tokens"  # before version 0.5, "vocabulary" also drew tokens that are parts of words
    values = config.renamed({"sampler": "ddim", **values})
    if values.get("exemplars") == "":
        values["exemplars"] = config.DRAWN
    return values


def rows_file(folder: epath.Path, step: int) -> epath.Path:
    """Returns the path of the file that holds the rows at checkpoint `step`."""
    return folder / "rows" / f"step_{step:06d}.safetensors"


def write_rows(folder: epath.Path, rows: np.ndarray, step: int, checkpoint: str = "") -> None:
    """Writes rows [P, D] to the files of step `step` and of the newest rows. checkpoint: the checkpoint's hash."""
    of_tokens = np.split(np.ascontiguousarray(rows, "<f4"), len(PLACEHOLDERS))
    content = save(dict(zip(PLACEHOLDERS, of_tokens, strict=True)), {"step": str(step), "checkpoint": checkpoint})
    path = rows_file(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content)
    files.write(folder / NEWEST, content)


class Rows(NamedTuple):
    """The content of a file of rows."""

    rows: np.ndarray  # float32 [P, D]
    step: int
    checkpoint: str  # the hash of the checkpoint at this step; "" in files from before version 0.3


def read_rows(path: epath.Path) -> Rows:
    """Reads a file of rows. Raises ValueError if it is damaged, FileNotFoundError if it does not exist."""
    try:
        content = path.read_bytes()
        header = files.from_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        found = load(content)
        rows = np.concatenate([found[token] for token in PLACEHOLDERS])
        if rows.dtype != np.float32 or rows.ndim != 2 or not np.isfinite(rows).all():
            raise ValueError("its rows are not finite float32 numbers [P, D]")
        return Rows(rows, int(header["step"]), header.get("checkpoint", ""))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no rows of a run, or is damaged: {error}") from error


def previews(folder: epath.Path) -> dict[int, epath.Path]:
    """Returns the path of each preview picture of a run, by the training step at which it was drawn."""
    found = {path.stem.removeprefix("step_"): path for path in (folder / "previews").glob("step_*.png")}
    return {int(number): path for number, path in found.items() if number.isdigit()}


def kept_steps(folder: epath.Path) -> list[int]:
    """Returns the steps for which a run's folder holds a file of rows, ascending."""
    names = [path.stem.removeprefix("step_") for path in rows_file(folder, 0).parent.glob("step_*.safetensors")]
    return sorted(int(name) for name in names if name.isdigit())


def read(folder: epath.PathLike, step: int | None = None) -> LearnedRun:
    """Reads a run from its folder: its settings, and its newest rows or the rows of checkpoint `step`.

    Skips damaged files of rows with a warning, and reads the newest undamaged file. If no file of rows is undamaged,
    reads the rows from a checkpoint, as in folders that older versions wrote. Raises ValueError if there is no run,
    more than one run, or no undamaged rows; OSError if a file cannot be read.
    """
    folder = files.place(os.fspath(folder))
    if not (folder / CONFIG).is_file():
        return _read_old(folder, step)
    settings, _ = read_settings(folder)
    if settings.runs:
        _refuse_job(folder, list(config.each_run(settings)))
    kept = kept_steps(folder)
    if step is not None and kept and step not in kept:
        raise ValueError(f"{folder} holds no rows of step {step}: give one of the steps {', '.join(map(str, kept))}")
    older = [rows_file(folder, number) for number in reversed(kept)]
    damaged = []
    for path in [folder / NEWEST, *older] if step is None else [rows_file(folder, step)]:
        try:
            found = read_rows(path)
        except FileNotFoundError:
            continue
        except ValueError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warn(f"{damaged[0]}. The rows of step {found.step} are used instead, from {path}")
        return LearnedRun(settings, found.rows, found.step)
    try:
        run = _read_old(folder, step)
    except ValueError as error:
        raise ValueError(damaged[0] if damaged else str(error)) from error
    if damaged:
        warn(f"{damaged[0]}. The rows of step {run.step} are used instead, from a checkpoint")
    return run


def _refuse_job(folder: epath.Path, names: list[str]) -> NoReturn:
    raise ValueError(f"{folder} holds {len(names)} runs: give the folder of one of them, such as {names[0]}")


def _read_old(folder: epath.Path, step: int | None) -> LearnedRun:
    """Reads rows from the newest undamaged checkpoint, or from checkpoint `step`, in `folder` or its parent.

    Before version 0.2, runs wrote their rows into checkpoints only. Raises ValueError if no checkpoint has these rows.
    """
    for place, name in ((folder, ""), (folder.parent, folder.name)):
        if not (place / CONFIG).is_file() or not (place / CHECKPOINTS).is_dir():
            continue
        runs = config.each_run(read_settings(place)[0])
        if name and list(runs) == [""]:
            continue  # `folder` is not a run's folder, but is inside one
        if name not in runs:
            _refuse_job(place, list(runs))
        from reversion_jax.runs import checkpoints  # imports Orbax and JAX, which take seconds

        kept = checkpoints.steps(place / CHECKPOINTS)
        if step is not None and step not in kept:
            raise ValueError(
                f"{folder} holds no rows of step {step}: give one of the steps {', '.join(map(str, kept))}"
            )
        damaged: list[ValueError] = []
        for number in reversed(kept if step is None else [step]):
            try:
                rows = checkpoints.read_rows(place / CHECKPOINTS, number)
            except ValueError as error:
                damaged.append(error)
                continue
            if damaged:
                warn(f"{damaged[0]}: checkpoint {number} is used instead")
            return LearnedRun(runs[name], rows[list(runs).index(name)], number)
        raise damaged[0] if damaged else ValueError(f"{place / CHECKPOINTS} holds no checkpoint")
    raise ValueError(f"no training run in {folder}: train one with python -m reversion_jax.train --workdir {folder}")
