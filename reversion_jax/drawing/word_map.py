"""Draws the result of `look.look` as one picture: a map of words with the learned words' paths, and plots beside it."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox
from PIL import Image

from reversion_jax.drawing import plots
from reversion_jax.drawing.look import Look, Row
from reversion_jax.drawing.vocabulary import OTHER, PIECE, PREPOSITION, STOP, VERB

_COLOURS = {PREPOSITION: "#1f6fb4", VERB: "#c8552b", STOP: "#b8a25a", OTHER: "#6d7a75", PIECE: "#c8c8cc"}
_PATHS = ("#161616", "#7b3fa0", "#2c7a4b", "#b03060")  # colours of rows; rows beyond the last colour are not drawn
_GREY = "#d2d2d6"
_Text = tuple[str, np.ndarray, str, float]  # a label, its place [2], its colour, its size in points
_TOLD = 8  # number of evenly spaced points of a path; all but the first and the last get a label with the step


def picture(seen: Look) -> Image.Image:
    """Draws a map of words with the rows' paths on the left; plots norms, nearest words and paths on the right."""
    rows = list(seen.rows.items())[: len(_PATHS)]
    figure = Figure(figsize=(15, 8.4), layout="constrained")
    title = f"{plots.label(seen.origin)}, among the words of {plots.label(seen.model)}"
    figure.suptitle(textwrap.fill(title, 130), fontsize=13)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.75, 1), height_ratios=(1, 1.55, 1))
    _map(figure.add_subplot(grid[:, 0]), seen, rows)
    _norms(figure.add_subplot(grid[0, 1]), seen, rows)
    _nearest(figure.add_subplot(grid[1, 1]), seen, rows)
    _path(figure.add_subplot(grid[2, 1]), rows)
    return plots.as_image(figure)


def project(seen: Look) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Projects words and rows onto a plane; returns points for words [W, 2], for each row's path [T, 2], and a share.

    The plane is spanned by the first two principal components of these vectors: the prepositions, the verbs, and the
    first and the last point of each path. The vectors are scaled to length 1, because this project compares words by
    their cosine, and because otherwise the map would mainly show the length of the learned rows. The share is the part
    of the vectors' variance that the plane shows. The other points of a path do not influence the plane, so that the
    plane does not depend on how often a run writes checkpoints. The projection is linear, because t-SNE and UMAP can
    bend a path.
    """
    stops = {name: np.stack([s.vector for s in row.path] or [row.vector]) for name, row in seen.rows.items()}
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    listed = [i for i, word in enumerate(seen.words) if seen.kinds[word] in (PREPOSITION, VERB)]
    fitted = unit(np.concatenate([seen.vectors[listed], *(own[[0, -1]][-len(own) :] for own in stops.values())]))
    centre = fitted.mean(axis=0)
    _, strengths, axes = np.linalg.svd(fitted - centre, full_matrices=False)
    place = lambda x: (unit(x) - centre) @ axes[:2].T
    share = float((strengths[:2] ** 2).sum() / (strengths**2).sum())
    return place(seen.vectors), {name: place(own) for name, own in stops.items()}, share


def _map(axes: Axes, seen: Look, rows: Sequence[tuple[str, Row]]) -> None:
    """Draws words as points, and the rows' paths as lines that are labelled with steps."""
    words, stops, share = project(seen)
    kinds = np.array([seen.kinds[word] for word in seen.words])
    others = words[~np.isin(kinds, (PREPOSITION, VERB))]
    _dots(axes, others, s=10, color=_GREY, label="other words", zorder=1)
    for kind in (PREPOSITION, VERB):
        _dots(axes, words[kinds == kind], s=26, color=_COLOURS[kind], label=f"{kind}s", zorder=3)
    for (name, _), colour in zip(rows, _PATHS, strict=False):
        path = stops[name]
        axes.plot(*path.T, color=colour, linewidth=1.6, zorder=4)
        _dots(axes, path[:-1], s=16, color="white", edgecolors=colour, zorder=5)
        _dots(axes, path[-1:], s=150, marker="*", color=colour, zorder=6)
    texts: list[_Text] = [
        (plots.label(name), stops[name][-1], colour, 13) for (name, _), colour in zip(rows, _PATHS, strict=False)
    ]
    if seen.initialiser and rows[0][1].path:
        texts.append((f"start: {plots.label(seen.initialiser)}", stops[rows[0][0]][0], "black", 10))
    for (name, row), colour in zip(rows, _PATHS, strict=False):
        told = np.unique(np.linspace(0, len(row.path) - 1, _TOLD).round().astype(int))[1:-1]
        texts += [(str(row.path[i].step), stops[name][i], colour, 7.5) for i in told]
    # Words near a learned row are labelled first, because a label that would overlap an earlier label is left out.
    near = {word for _, row in rows for word in row.nearest}
    for word, at, kind in sorted(zip(seen.words, words, kinds, strict=True), key=lambda item: item[0] not in near):
        if kind in (PREPOSITION, VERB):
            texts.append((plots.label(word), at, _COLOURS[kind], 9))
    _write(axes, texts, stops.values())
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(
        f"first two principal components of prepositions, verbs and the paths' ends, scaled to length 1: {share:.0%} "
        "of their variance", fontsize=9,
    )  # fmt: skip
    axes.legend(loc="best", fontsize=9)


def _dots(axes: Axes, places: np.ndarray, **style: Any) -> None:
    """Draws points at the positions `places` [N, 2]."""
    axes.scatter(places[:, 0], places[:, 1], **style)


def _write(axes: Axes, texts: Sequence[_Text], stops: Iterable[np.ndarray]) -> None:
    """Writes labels beside their points, so that labels overlap neither earlier labels nor the points of paths.

    stops: the points of each path, [T, 2].
    If no side of a point is free, a small label is left out, and a large label is written on the last side.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.margins(0.12, 0.08)
    figure.draw_without_rendering()  # lays the figure out, so that positions on the page are known
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    points = axes.transData.transform(np.concatenate(list(stops)))
    taken = [Bbox([at - 2, at + 2]) for at in points]
    for text, place, colour, size in texts:
        large = size >= 10
        gap = 9 if size > 12 else 5  # points; the gap beside a star is larger than the gap beside a dot
        sides = [(gap, 3), (-gap, 3), (gap, -3 - size), (-gap, -3 - size)]
        style: dict[str, Any] = {"color": colour, "fontsize": size, "path_effects": halo if large else None}
        for x, y in sides:
            side = "left" if x > 0 else "right"
            at = (float(place[0]), float(place[1]))
            written = axes.annotate(text, at, (x, y), textcoords="offset points", ha=side, zorder=7, **style)
            box = written.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            if not (large and (x, y) == sides[-1]):
                written.remove()


def _norms(axes: Axes, seen: Look, rows: Sequence[tuple[str, Row]]) -> None:
    """Draws a histogram of the norms of the model's tokens, and the rows' norms as lines."""
    axes.hist(seen.norms, bins=60, color=_GREY)
    for (name, row), colour in zip(rows, _PATHS, strict=False):
        axes.axvline(row.norm, color=colour, label=f"{plots.label(name)} {row.norm:.2f}")
    axes.set_yticks([])
    axes.set_title(f"norm: the model's {len(seen.norms)} tokens (grey) have {seen.norms.mean():.2f} ± "
                   f"{seen.norms.std():.2f}", fontsize=10)  # fmt: skip
    axes.legend(fontsize=9)


def _nearest(axes: Axes, seen: Look, rows: Sequence[tuple[str, Row]]) -> None:
    """Draws the nearest words of the first two rows as bars."""
    bars = [(name, word, cosine) for name, row in rows[:2] for word, cosine in list(row.nearest.items())[:8]]
    gaps = [i + int(i >= 8) for i in range(len(bars))]
    axes.barh(gaps, [cosine for *_, cosine in bars], color=[_COLOURS[seen.kinds[word]] for _, word, _ in bars])
    axes.set_yticks(gaps, [plots.label(word) for _, word, _ in bars], fontsize=9)
    axes.invert_yaxis()
    present = [kind for kind in _COLOURS if kind in {seen.kinds[word] for _, word, _ in bars}]
    axes.legend(handles=[Patch(color=_COLOURS[kind], label=kind) for kind in present], loc="lower right", fontsize=8)
    axes.set_title("nearest words by cosine: " + ", then ".join(plots.label(name) for name, _ in rows[:2]), fontsize=10)


def _path(axes: Axes, rows: Sequence[tuple[str, Row]]) -> None:
    """Plots each row's norm, and its cosine to the row before training, over the checkpoints."""
    if not any(row.path for _, row in rows):
        axes.text(0.5, 0.5, "no path: there are no checkpoints of these words", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.set_title("cosine to the start over the checkpoints (norm dotted)", fontsize=10)
    norms = axes.twinx()
    for (name, row), colour in zip(rows, _PATHS, strict=False):
        steps = [stop.step for stop in row.path]
        axes.plot(steps, [stop.to_start for stop in row.path], color=colour, marker=".", label=plots.label(name))
        norms.plot(steps, [stop.norm for stop in row.path], color=colour, linestyle=":")
    axes.set_xlabel("step")
