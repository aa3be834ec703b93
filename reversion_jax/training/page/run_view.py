"""Reads what the page shows of a run's folder: the newest picture, the losses and the nearest words of <R>."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from PIL import Image

from reversion_jax.runs import history
from reversion_jax.training.page.place import newest_preview

LOSSES = ("denoising", "control")
_POINTS = 150


class View(NamedTuple):
    """The results in a run's folder that the page shows."""

    picture: Image.Image | None  # the newest preview, or the contact sheet of a finished run
    caption: str
    losses: pd.DataFrame  # columns step, denoising, control: means over neighbouring steps
    nearest: dict[str, float]  # cosines of <R> to its nearest words


def view(run: Path) -> View:
    """Reads a run's folder; missing files leave parts of the view empty. Raises OSError if a file cannot be read."""
    path = run / history.NAME
    records = history.read(epath.Path(path)) if path.is_file() else []
    looks = [record["nearest"] for record in records if "nearest" in record]
    picture, caption = _picture(run)
    return View(picture, caption, _means(records), dict(looks[-1] if looks else []))


def _picture(run: Path) -> tuple[Image.Image | None, str]:
    """Returns a picture and its caption: the newest preview or, once the run is finished, the contact sheet."""
    sheet = run / "contact_sheet.png"
    # Links out of the run's folder are not followed.
    kept = [path for path in (sheet, newest_preview(run)) if path and path.resolve().is_relative_to(run.resolve())]
    shown = max((path for path in kept if path.is_file()), key=lambda path: path.stat().st_mtime, default=None)
    if shown is None:
        return None, ""
    with Image.open(shown, formats=("PNG",)) as image:
        image.load()
    if shown == sheet:
        return image, ""
    step = int(shown.stem.removeprefix("step_"))
    return image, f"drawn at step {step:,}" if step else "drawn before the first step"


def _means(records: list[dict]) -> pd.DataFrame:
    """Averages the losses over neighbouring steps, so that at most `_POINTS` points are left."""
    steps = np.array([record["step"] for record in records], dtype=float)
    columns = {"step": steps, **{name: np.array([record[name] for record in records]) for name in LOSSES}}
    parts = np.array_split(np.arange(len(steps)), max(1, min(_POINTS, len(steps) // 2)))
    return pd.DataFrame(
        {name: [values[part].mean() for part in parts if len(part)] for name, values in columns.items()}
    )
