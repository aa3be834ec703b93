"""Presents the result of `attention.attend` as a sheet with the maps over the picture, and as a table of numbers."""

import textwrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from reversion_jax.drawing import generate, plots
from reversion_jax.drawing.attention import Attention, joined, upsampled
from reversion_jax.inversion import words

_COLUMNS = 8  # maximum number of words on a sheet


def sheet(found: Attention, learned: tuple[str, ...] = ()) -> Image.Image:
    """Draws a sheet with the picture and the attention maps: a column for each word, a row for each resolution.

    learned: the learned words, which always have a column. Stop words, such as articles, have no column.
    The brightness of each map is relative to the map's own peak, and the peak is written above the map. So the
    brightness shows where in the picture a word's attention is, but not how strong the attention is.
    """
    shown = _shown(found, learned)
    maps = {"all resolutions": joined(found), **{f"{h} × {w}": found.maps[h, w] for h, w in sorted(found.maps)[::-1]}}
    aspect = found.image.shape[0] / found.image.shape[1]
    width = 1.75 * (1 + len(shown))  # inches
    figure = Figure(figsize=(width, (1.75 * aspect + 0.3) * len(maps) + 0.5), layout="constrained")
    grid = figure.subplots(len(maps), 1 + len(shown), squeeze=False)
    told = f"attention of the words of {plots.label(found.prompt)!r} (seed {found.seed})"
    lines = [told, "each map is scaled to its own peak, the probability above it"]
    figure.suptitle("\n".join(textwrap.fill(line, int(11 * width)) for line in lines), fontsize=11)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(generate.to_uint8(found.image))
    for row, (name, own) in enumerate(maps.items()):
        for column, i in enumerate(shown, start=1):
            _overlay(grid[row, column], found.image, own[i])
            title = plots.label(found.words[i]) if row == 0 else ""
            grid[row, column].set_title(f"{title}\n{own[i].max():.2f}".strip(), fontsize=9)
        at = (0.5, -0.1) if row == 0 else (0.5, 0.5)
        grid[row, 0].text(*at, name, fontsize=10, ha="center", va="center", transform=grid[row, 0].transAxes)
    return plots.as_image(figure, dpi=110 if found.image.shape[1] < 256 else 200)


def as_json(found: Attention, learned: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns numbers about each word's map over all resolutions, and the map's mean probability at each resolution."""
    maps = joined(found)
    return {
        "prompt": found.prompt,
        "seed": found.seed,
        "start_token": found.start,
        "words": [
            {
                "word": word,
                "mean": float(own.mean()),
                "peak": float(own.max()),
                "centre": _centre(own),
                "correlation_to": {w: _correlation(own, maps[j]) for j, w in enumerate(found.words) if w in learned},
                "mean_by_resolution": {f"{h}x{w}": float(found.maps[h, w][i].mean()) for h, w in found.maps},
            }
            for i, (word, own) in enumerate(zip(found.words, maps, strict=True))
        ],
    }


def describe(numbers: dict[str, Any]) -> str:
    """Formats the numbers from `as_json` as a table."""
    lines = [f"attention of the words of {numbers['prompt']!r} (seed {numbers['seed']})"]
    lines.append(f"  {'word':16} {'mean':>6} {'peak':>6}  centre x, y  correlation to the map of")
    for word in numbers["words"]:
        x, y = word["centre"]
        alike = ", ".join(f"{other} {value:+.2f}" for other, value in word["correlation_to"].items())
        lines.append(f"  {word['word']:16} {word['mean']:6.3f} {word['peak']:6.3f}   {x:4.2f}, {y:4.2f}  {alike}")
    return "\n".join([*lines, f"  the start token gets {numbers['start_token']:.0%}"])


def _shown(found: Attention, learned: tuple[str, ...]) -> list[int]:
    """Returns the indices of the words that get a column, in the prompt's order.

    If there are more words than columns, learned words get a column before other words.
    """
    silent = words.packaged("stop_words")
    told = [i for i, word in enumerate(found.words) if word in learned or (word.isalnum() and word not in silent)]
    first = sorted(told, key=lambda i: found.words[i] not in learned)[:_COLUMNS]
    return sorted(first)


def _overlay(axes: Axes, image: np.ndarray, own: np.ndarray) -> None:
    """Draws the attention map `own` [h, w] in colour over a pale, grey copy of the picture [H, W, 3]."""
    weight = upsampled(own, image.shape[:2])
    weight = weight[..., None] / max(weight.max(), np.finfo(np.float32).tiny)
    grey = np.repeat((image.mean(axis=-1, keepdims=True) + 1) / 2, 3, axis=-1)
    heat = colormaps["inferno"](weight[..., 0])[..., :3]
    axes.imshow(np.clip(0.35 * grey + 0.65 * heat, 0, 1))


def _centre(own: np.ndarray) -> tuple[float, float]:
    """Returns the centre of mass of a map [h, w]: x and y from 0 (left, top) to 1 (right, bottom)."""
    y, x = ((np.arange(side) + 0.5) / side for side in own.shape)
    total = max(float(own.sum()), np.finfo(np.float32).tiny)
    return float((own.sum(axis=0) * x).sum() / total), float((own.sum(axis=1) * y).sum() / total)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the Pearson correlation of two maps over their positions; 0 if one map is constant."""
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), np.finfo(np.float32).tiny))
