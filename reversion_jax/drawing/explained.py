"""Draws figures that explain the method in a notebook. The figures' data come from the code that training uses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from reversion_jax.drawing import plots

_BLUE, _RED, _INK = "#1f6fb4", "#c8552b", "#161616"
_SERIES = ("#b9b9be", _BLUE, "#86b5de", _RED)  # colours of the series in `bars`
Curve = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]  # x and y, [N] each


def curves(
    lines: Mapping[str, Curve],
    dots: Mapping[str, Curve] | None = None,
    *,
    x: str,
    y: str,
    marks: Mapping[str, float] | None = None,
) -> Image.Image:
    """Draws labelled lines. x, y: labels of the axes.

    dots: points to draw in the colour of a line, by the line's label.
    marks: positions x of vertical lines, by the label of each vertical line.
    """
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, (at, values) in lines.items():
        (line,) = axes.plot(at, values, label=name, linewidth=2)
        if dots and name in dots:
            axes.plot(*dots[name], color=line.get_color(), marker="o", markersize=4, linewidth=0)
    for name, place in (marks or {}).items():
        axes.axvline(place, color="grey", linestyle="--", linewidth=1)
        axes.text(place, 1, f" {name}", color="grey", va="top", transform=axes.get_xaxis_transform())
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return plots.as_image(figure)


def spectra(images: Mapping[str, np.ndarray]) -> Image.Image:
    """Draws the mean power spectrum of each set of images, float [N, H, W, C], on one logarithmic colour scale."""
    figure = Figure(figsize=(3.4 * len(images) + 0.8, 3.7), layout="constrained")
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    powers = {}
    for name, own in images.items():
        grey = own.mean(axis=-1) - own.mean(axis=(1, 2, 3))[:, None, None]
        powers[name] = np.log10(np.mean(np.abs(np.fft.fft2(grey)) ** 2, axis=0) + 1e-3)
    highest = max(power.max() for power in powers.values())
    for axes, (name, power) in zip(panels, powers.items(), strict=True):
        height, width = power.shape
        y, x = 0.5 / height, 0.5 / width  # half a pixel, because a frequency is at the centre of its pixel
        limits = (-0.5 - x, 0.5 - x, -0.5 - y, 0.5 - y)
        shown = axes.imshow(np.fft.fftshift(power), cmap="magma", vmin=-2, vmax=highest, extent=limits, origin="lower")
        axes.set(title=name, xlabel="cycles per pixel", xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    figure.colorbar(shown, ax=list(panels), label="log10 of the power", shrink=0.8)
    return plots.as_image(figure)


def circle(positives: np.ndarray, negatives: np.ndarray, path: np.ndarray, losses: Curve) -> Image.Image:
    """Draws the steering loss for embeddings of two numbers: words and a row's path on a circle, and the loss by angle.

    positives, negatives: the words' embeddings [K, 2] and [M, 2]. path: the learned row at each step, [T, 2].
    losses: angles in degrees, and the loss at each angle.
    """
    figure = Figure(figsize=(10, 4.3), layout="constrained")
    plane, landscape = figure.subplots(1, 2, width_ratios=(1, 1.4))
    turn = np.linspace(0, 2 * np.pi, 200)
    plane.plot(np.cos(turn), np.sin(turn), color="lightgrey", linewidth=1, zorder=0)
    for words, colour, name in ((positives, _BLUE, "positives"), (negatives, _RED, "negatives")):
        _arrows(plane, words, colour)
        plane.plot([], [], color=colour, linewidth=2.5, label=name)
    steps = path / np.linalg.norm(path, axis=-1, keepdims=True)
    plane.plot(*(0.8 * steps.T), color=_INK, marker=".", linewidth=1, label="<R> as it is learned")
    _arrows(plane, 0.8 * steps[-1:], _INK)
    plane.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
    plane.set_axis_off()
    figure.legend(loc="outside lower left", ncols=3, frameon=False)
    at, values = map(np.asarray, losses)
    angles = np.degrees(np.unwrap(np.arctan2(*steps.T[::-1]))) % 360
    landscape.plot(at, values, color="grey")
    landscape.plot(angles, np.interp(angles, at, values), color=_INK, marker="o", markersize=4, linewidth=0)
    for words, colour in ((positives, _BLUE), (negatives, _RED)):
        for angle in np.degrees(np.arctan2(*words.T[::-1])) % 360:
            landscape.axvline(angle, color=colour, linewidth=1.5, alpha=0.7)
    landscape.set(xlabel="direction of <R>, degrees", ylabel="steering loss", xticks=range(0, 361, 60))
    landscape.spines[["top", "right"]].set_visible(False)
    return plots.as_image(figure)


def bars(shares: Mapping[str, Mapping[str, float]], *, title: str = "") -> Image.Image:
    """Draws shares from 0 to 1 as groups of bars: `shares[series][group]`. All series have the same groups."""
    groups = list(next(iter(shares.values())))
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(shares)
    for i, (name, own) in enumerate(shares.items()):
        at = np.arange(len(groups)) + (i - (len(shares) - 1) / 2) * width
        drawn = axes.bar(
            at, [own[group] for group in groups], 0.94 * width, label=name, color=_SERIES[i % len(_SERIES)]
        )
        axes.bar_label(drawn, [f"{own[group]:.0%}" for group in groups], fontsize=8)
    axes.set(ylim=(0, 1.12), title=title, yticks=(0, 0.5, 1), yticklabels=("0%", "50%", "100%"))
    axes.set_xticks(range(len(groups)), groups)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return plots.as_image(figure)


def _arrows(axes: Axes, vectors: np.ndarray, colour: str) -> None:
    """Draws an arrow from the origin to each of the vectors [N, 2]."""
    for vector in vectors:
        style: dict[str, Any] = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (float(vector[0]), float(vector[1])), (0, 0), arrowprops=style)
