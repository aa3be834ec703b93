"""Plots a training run, and has functions that all plots use."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from PIL import Image

from reversion_jax.runtime import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def label(text: str) -> str:
    """Escapes what matplotlib cannot write: bytes and emoji in vocabularies, and "$", which starts a formula."""
    return text.encode("unicode_escape").decode("ascii").replace("$", r"\$")


def as_image(figure: "Figure", dpi: int = 110) -> Image.Image:
    """Renders a figure as a picture.

    Make the figure without pyplot, because pyplot depends on the backend and on threads.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return Image.open(content)


def plot_history(records: Sequence[Mapping], path: epath.Path, title: str) -> None:
    """Plots the two losses, the nearest words of <R>, and the distance of <R> from its start over the training steps.

    records: the records of metrics.jsonl. Writes a PNG; if there are no records, writes nothing.
    """
    if not records:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # The margins are fixed, because matplotlib would draw everything twice to find suitable margins.
    margins = {"left": 0.11, "right": 0.88, "bottom": 0.07, "top": 0.95, "hspace": 0.06}
    figure, (losses, words) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, gridspec_kw=margins)
    steps = [r["step"] for r in records]
    for key, axis, colour in (("denoising", losses, "tab:blue"), ("control", losses.twinx(), "tab:orange")):
        values = np.array([r[key] for r in records])
        axis.plot(steps, values, color=colour, alpha=0.2)
        window = max(len(values) // 20, 1)
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(steps[window - 1 :], smooth, color=colour)
        axis.set_ylabel(f"{key} loss", color=colour)
    losses.set_title(title)
    looks = [r for r in records if "nearest" in r]
    for word in [word for word, _ in looks[-1]["nearest"][:6]] if looks else []:
        points = [(r["step"], dict(r["nearest"]).get(word, np.nan)) for r in looks]
        words.plot(*zip(*points, strict=True), marker=".", label=f" {label(word)}")
    words.set_ylabel("cosine of <R> to its nearest words")
    words.set_xlabel("step")
    words.legend(loc="upper left", fontsize="small")
    distance = words.twinx()
    distance.plot([r["step"] for r in looks], [r["distance"] for r in looks], color="grey", linestyle=":")
    distance.set_ylabel("distance of <R> from its start (dotted)", color="grey")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    pyplot.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content.getvalue())
