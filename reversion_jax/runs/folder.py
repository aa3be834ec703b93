"""A run's folder: what it holds, and how it is read again. It is whole by itself and may be copied anywhere.

    config.json                    its settings; and its origin: the base model and its hash, versions, device
    rows.safetensors               the newest rows of <R> and <R-inv>
    rows/step_000500.safetensors   the rows of every checkpoint
    metrics.jsonl, previews/, contact_sheet.png, training.png
    tensorboard/; wandb/ and wandb_id.txt    only if config.log_to asks for them

Several runs that train together have a folder each. Checkpoints lie beside them and serve resuming alone.
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
_ORIGIN = "origin"


class LearnedRun(NamedTuple):
    """What was learned, and how."""

    settings: Settings
    rows: np.ndarray  # float32 [P, D]: those of <R>, then those of <R-inv>
    step: int

    def words(self) -> dict[str, np.ndarray]:
        """The rows of each token, [S, D]; <R-inv> only if the run had inverse prompts."""
        words = dict(zip(PLACEHOLDERS, np.split(self.rows, len(PLACEHOLDERS)), strict=True))
        if not self.settings.inverse_share:
            del words[INVERSE]
        return words

    def describe(self) -> str:
        """Where the words come from, for people."""
        s = self.settings
        return f"{s.relation} by {s.method}, {self.step} of {s.steps} steps trained"


def write_settings(folder: epath.Path, settings: Settings, origin: Mapping[str, Any]) -> None:
    """Writes config.json."""
    values = {_ORIGIN: dict(origin), **dataclasses.asdict(settings)}
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / CONFIG, json.dumps(values, indent=2) + "\n")


def read_settings(folder: epath.Path) -> tuple[Settings, dict[str, Any]]:
    """Settings and origin of config.json; settings that the file lacks have their defaults. ValueError, OSError."""
    path = folder / CONFIG
    try:
        values = files.from_json(path.read_text())
        origin = values.pop(_ORIGIN, {})
        return config.from_dict(_renamed(values, origin)), origin
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or train again in another --workdir") from error


def _renamed(values: dict[str, Any], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as earlier versions wrote them, by today's names."""
    is_old = "runs_at_once" in values
    if is_old and values.get("precision") == "float32" and origin.get("device", "cpu") != "cpu":
        values["precision"] = "tensorfloat32"  # which it was there, without a word
    if values.get("negatives") == "vocabulary" and "inverse_prompts" not in values:
        values["negatives"] = "tokens"  # before version 0.5, "vocabulary" drew pieces of words too
    values = config.renamed({"sampler": "ddim", **values})
    if values.get("exemplars") == "":
        values["exemplars"] = config.DRAWN
    return values


def rows_file(folder: epath.Path, step: int) -> epath.Path:
    """The file of a checkpoint's rows."""
    return folder / "rows" / f"step_{step:06d}.safetensors"


def write_rows(folder: epath.Path, rows: np.ndarray, step: int, checkpoint: str = "") -> None:
    """Writes rows [P, D] as those of checkpoint `step`, whose hash it also keeps, and as the newest."""
    of_tokens = np.split(np.ascontiguousarray(rows, "<f4"), len(PLACEHOLDERS))
    content = save(dict(zip(PLACEHOLDERS, of_tokens, strict=True)), {"step": str(step), "checkpoint": checkpoint})
    path = rows_file(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content)
    files.write(folder / NEWEST, content)


class Rows(NamedTuple):
    """What a file of rows holds."""

    rows: np.ndarray  # float32 [P, D]
    step: int
    checkpoint: str  # the hash of the checkpoint of that step; "" in files before version 0.3


def read_rows(path: epath.Path) -> Rows:
    """The rows in a file of a run. ValueError, which names the file; FileNotFoundError."""
    try:
        content = path.read_bytes()
        header = files.from_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        found = load(content)
        rows = np.concatenate([found[token] for token in PLACEHOLDERS])
        if rows.dtype != np.float32 or rows.ndim != 2 or not np.isfinite(rows).all():
            raise ValueError("not all of its numbers are finite")
        return Rows(rows, int(header["step"]), header.get("checkpoint", ""))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no rows of a run, or is damaged: {error}") from error


def previews(folder: epath.Path) -> dict[int, epath.Path]:
    """The pictures of a run's previews, by their steps."""
    found = {path.stem.removeprefix("step_"): path for path in (folder / "previews").glob("step_*.png")}
    return {int(number): path for number, path in found.items() if number.isdigit()}


def kept_steps(folder: epath.Path) -> list[int]:
    """The steps of which a run kept its rows, ascending."""
    names = [path.stem.removeprefix("step_") for path in rows_file(folder, 0).parent.glob("step_*.safetensors")]
    return sorted(int(name) for name in names if name.isdigit())


def read(folder: epath.PathLike, step: int | None = None) -> LearnedRun:
    """A run by its folder: its settings and newest rows, or those of checkpoint `step`. ValueError, OSError.

    What is damaged is stepped around with a warning: the newest whole rows are read, or those of a checkpoint, where a
    folder that older versions wrote has all of them.
    """
    folder = files.place(os.fspath(folder))
    if not (folder / CONFIG).is_file():
        return _read_old(folder, step)
    settings, _ = read_settings(folder)
    if settings.runs:
        _refuse_job(folder, list(config.each_run(settings)))
    kept = kept_steps(folder)
    if step is not None and kept and step not in kept:
        raise ValueError(f"{folder} kept no rows of step {step}: there are those of {', '.join(map(str, kept))}")
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
            warn(f"{damaged[0]}. The rows of step {found.step} are taken, from {path}")
        return LearnedRun(settings, found.rows, found.step)
    try:
        run = _read_old(folder, step)
    except ValueError as error:
        raise ValueError(damaged[0] if damaged else str(error)) from error
    if damaged:
        warn(f"{damaged[0]}. The rows of step {run.step} are taken, from a checkpoint")
    return run


def _refuse_job(folder: epath.Path, names: list[str]) -> NoReturn:
    raise ValueError(f"{folder} holds {len(names)} runs: give the folder of one of them, such as {names[0]}")


def _read_old(folder: epath.Path, step: int | None) -> LearnedRun:
    """Reads rows from the newest whole checkpoint, or that of `step`: in `folder`, or in its parent.

    Runs before version 0.2 left nothing else.
    """
    for place, name in ((folder, ""), (folder.parent, folder.name)):
        if not (place / CONFIG).is_file() or not (place / CHECKPOINTS).is_dir():
            continue
        runs = config.each_run(read_settings(place)[0])
        if name and list(runs) == [""]:
            continue  # a folder in that of a single run
        if name not in runs:
            _refuse_job(place, list(runs))
        from reversion_jax.runs import checkpoints  # imports Orbax and JAX, which take seconds

        kept = checkpoints.steps(place / CHECKPOINTS)
        if step is not None and step not in kept:
            raise ValueError(f"{folder} kept only the rows of step {', '.join(map(str, kept))}")
        damaged: list[ValueError] = []
        for number in reversed(kept if step is None else [step]):
            try:
                rows = checkpoints.read_rows(place / CHECKPOINTS, number)
            except ValueError as error:
                damaged.append(error)
                continue
            if damaged:
                warn(f"{damaged[0]}: that of step {number} is taken")
            return LearnedRun(runs[name], rows[list(runs).index(name)], number)
        raise damaged[0] if damaged else ValueError(f"{place / CHECKPOINTS} holds no checkpoint")
    raise ValueError(f"no training run in {folder}: train one by python -m reversion_jax.train --workdir {folder}")
