"""Draws two coloured shapes in a relation: their outlines, a canvas, a layout for each relation, and a style."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIZE_PX = 64
_SUPERSAMPLING = 4  # pictures are drawn at 256 px and averaged down to 64 px, which smooths edges

COLOURS = {
    "red": (222, 38, 40),
    "orange": (250, 140, 28),
    "yellow": (244, 212, 44),
    "green": (38, 162, 62),
    "cyan": (56, 202, 214),
    "blue": (42, 78, 220),
    "purple": (134, 54, 190),
    "pink": (244, 130, 182),
}
Colour = tuple[int, ...]
Painted = tuple[str, Colour | None]  # shape and colour; an entity without colour is not drawn
_Point = Sequence[float] | np.ndarray  # x and y
INK = (44, 44, 48)  # the colour of strings, walls, wheels and arms, which no entity has


def _regular(corners: int, *, turn: float = 0.0, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Returns points [corners, 2] at equal angles.

    turn: the first angle, in full turns. radii: repeated for all points.
    """
    angles = 2 * np.pi * (np.arange(corners) / corners + turn)
    radius = np.resize(radii, corners)
    return np.stack([np.cos(angles) * radius, np.sin(angles) * radius], axis=-1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y + 2.5], axis=-1) / 15.5


def _moon() -> np.ndarray:
    """A wide crescent: the unit disc without a disc of radius 0.85 whose centre is 0.75 to the right."""
    x = (1 - 0.85**2 + 0.75**2) / (2 * 0.75)  # x coordinate of the points where the two circles meet
    y = np.sqrt(1 - x**2)
    outer = np.linspace(np.arctan2(y, x), 2 * np.pi - np.arctan2(y, x), 36)
    bite = np.linspace(2 * np.pi - np.arctan2(y, x - 0.75), np.arctan2(y, x - 0.75), 28)
    rim = np.stack([np.cos(outer), np.sin(outer)], axis=-1)
    hollow = np.stack([0.75 + 0.85 * np.cos(bite), 0.85 * np.sin(bite)], axis=-1)
    return np.concatenate([rim, hollow]) + np.array([0.16, 0.0])


def _cross() -> np.ndarray:
    a, b = 0.36, 0.98
    corners = [
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]
    return np.array([*corners, (-a, -b)])


# Outlines [corners, 2]. x points right and y points down. Outlines have similar areas and radii of about one unit.
SHAPES: dict[str, np.ndarray] = {
    "circle": 0.95 * _regular(48),
    "square": 1.2 * _regular(4, turn=1 / 8),
    "triangle": 1.22 * _regular(3, turn=-1 / 4) + np.array([0.0, 0.2]),
    "star": 1.18 * _regular(10, turn=-1 / 4, radii=(1.0, 0.48)),
    "heart": _heart(),
    "diamond": _regular(4) * np.array([0.86, 1.14]),
    "cross": _cross(),
    "moon": _moon(),
}
# The centre of a smaller shape inside some shapes, in the units of SHAPES. In other shapes, this centre is (0, 0).
_CORES = {"triangle": (0.0, 0.28), "heart": (0.0, -0.12), "moon": (-0.34, 0.0)}


class _Canvas:
    """A picture while it is drawn. Coordinates and widths are in pixels of the final size."""

    def __init__(self, rng: np.random.Generator):
        self.background = tuple(int(v) for v in rng.integers(222, 252, size=3))
        self.image = Image.new("RGB", (SIZE_PX * _SUPERSAMPLING,) * 2, self.background)
        self._draw = ImageDraw.Draw(self.image)
        # All parts of the scene have the same shift and the same scale, so that parts that touch still touch.
        self._scale = _SUPERSAMPLING * rng.uniform(0.9, 1.02)
        self._shift = _SUPERSAMPLING * (SIZE_PX / 2 + rng.uniform(-2.5, 2.5, size=2))

    def _to_device(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Converts points [n, 2] around the scene's centre to pixels of the supersampled picture."""
        return [tuple(p) for p in points * self._scale + self._shift]

    def polygon(self, points: np.ndarray, fill: Colour | None) -> None:
        """Fills the area inside the corners `points` [n, 2]. Draws nothing if `fill` is None."""
        if fill is not None:
            self._draw.polygon(self._to_device(points), fill=fill)

    def stroke(self, points: np.ndarray, fill: Colour | None, width: float) -> None:
        """Draws a closed line, `width` px wide with round joints, along `points` [n, 2]; nothing if `fill` is None."""
        if fill is None:
            return
        device = self._to_device(np.concatenate([points, points[:1]]))
        pen = width * self._scale
        self._draw.line(device, fill=fill, width=round(pen))
        for x, y in device:
            self._draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=fill)

    def bar(self, start: _Point, end: _Point, width: float) -> None:
        """Draws a straight line in ink, `width` px wide."""
        device = self._to_device(np.array([start, end], dtype=float))
        self._draw.line(device, fill=INK, width=round(width * self._scale))

    def pixels(self) -> np.ndarray:
        """Returns the picture, uint8 [64, 64, 3]."""
        return np.asarray(self.image.reduce(_SUPERSAMPLING))


def _outline(shape: str, radius: float, centre: _Point) -> np.ndarray:
    """Returns the outline of a shape, [corners, 2]; radius and centre are in px."""
    return SHAPES[shape] * radius + np.asarray(centre, dtype=float)


def _core(shape: str, radius: float) -> np.ndarray:
    """Returns the centre of a smaller shape inside a shape of this radius, in px."""
    return np.asarray(_CORES.get(shape, (0.0, 0.0))) * radius


def _stacked(
    top: str, bottom: str, top_radius: float, bottom_radius: float, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two outlines, one above the other with `gap` px between them. The pair is centred."""
    upper, lower = _outline(top, top_radius, (0, 0)), _outline(bottom, bottom_radius, (0, 0))
    height = np.ptp(upper[:, 1]) + gap + np.ptp(lower[:, 1])
    upper[:, 1] += -height / 2 - upper[:, 1].min()
    lower[:, 1] += height / 2 - lower[:, 1].max()
    return upper, lower


def _side_by_side(left: str, right: str, radius: float, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns two outlines beside each other with `gap` px between them. The pair is centred."""
    first, second = _outline(left, radius, (0, 0)), _outline(right, radius, (0, 0))
    width = np.ptp(first[:, 0]) + gap + np.ptp(second[:, 0])
    first[:, 0] += -width / 2 - first[:, 0].min()
    second[:, 0] += width / 2 - second[:, 0].max()
    return first, second


def _draw_pair(canvas: _Canvas, relation: str, a: Painted, b: Painted, rng: np.random.Generator) -> None:
    """Draws a relation with the subject outside the object. In some relations, lines in ink link the two entities."""
    (shape_a, colour_a), (shape_b, colour_b) = a, b
    match relation:
        case "on":
            upper, lower = _stacked(shape_a, shape_b, 12.5, 14, gap=-0.5)
            lower += [rng.uniform(-2, 2), 0]
        case "ride_on":
            upper, lower = _stacked(shape_a, shape_b, 11.5, 13.5, gap=-0.5)
            upper, lower = upper - [0, 3.5], lower - [0, 3.5]
            for x in (-9, 9):
                wheel = _outline("circle", 5.8, (x, lower[:, 1].max() + 2))
                canvas.polygon(wheel, INK)
        case "above":
            upper, lower = _stacked(shape_a, shape_b, 12, 12, gap=rng.uniform(8, 11))
            upper += [rng.uniform(-4, 4), 0]
        case "hanging_from":
            upper, lower = _stacked(shape_b, shape_a, 11.5, 11.5, gap=12)
            canvas.bar((0, upper[:, 1].mean()), (0, lower[:, 1].mean()), 3.2)
            canvas.polygon(upper, colour_b)
            canvas.polygon(lower, colour_a)
            return
        case "beside":
            upper, lower = _side_by_side(shape_a, shape_b, 12, gap=rng.uniform(7, 10))
            upper += [0, rng.uniform(-4, 4)]
        case "shake_hands":
            upper, lower = _side_by_side(shape_a, shape_b, 11.5, gap=12)
            canvas.bar((upper[:, 0].mean(), 0), (lower[:, 0].mean(), 0), 5)
        case "back2back":
            upper, lower = _side_by_side(shape_a, shape_b, 12.5, gap=3)
            between = (upper[:, 0].max() + lower[:, 0].min()) / 2
            canvas.bar((between, -23), (between, 23), 5)
        case "carved_by":
            lower = _outline(shape_b, 17.5, (-6.5, 6.5))
            upper = _outline(shape_a, 12.5, (10.5, -10.5))
            canvas.polygon(lower, colour_b)
            canvas.stroke(upper, canvas.background, 7)
        case "hug":
            upper, lower = _side_by_side(shape_a, shape_b, 10.5, gap=0)
            canvas.stroke(_regular(48) * [29.0, 20.0], INK, 4)
    if relation != "carved_by":
        canvas.polygon(lower, colour_b)
    canvas.polygon(upper, colour_a)


def _draw_nested(canvas: _Canvas, relation: str, a: Painted, b: Painted) -> None:
    """Draws a relation in which the subject is inside the object's outline."""
    (shape_a, colour_a), (shape_b, colour_b) = a, b
    outer = _outline(shape_b, 27.5, (0, 0))
    core = _core(shape_b, 27.5)
    match relation:
        case "inside":
            canvas.polygon(outer, colour_b)
            inner = _outline(shape_a, 11.5, core)
            canvas.stroke(inner, canvas.background, 7)
            canvas.polygon(inner, colour_a)
        case "painted_on":
            canvas.polygon(outer, colour_b)
            canvas.polygon(_outline(shape_a, 12.5, core), colour_a)
        case "wrapped_in":
            canvas.stroke(_outline(shape_b, 25.5, (0, 0)), colour_b, 5.5)
            canvas.polygon(_outline(shape_a, 10.5, core), colour_a)


def compose(relation: str, a: Painted, b: Painted, rng: np.random.Generator) -> np.ndarray:
    """Draws "A <relation> B", uint8 [64, 64, 3]. Position, size and background vary at random."""
    canvas = _Canvas(rng)
    if relation in ("inside", "painted_on", "wrapped_in"):
        _draw_nested(canvas, relation, a, b)
    else:
        _draw_pair(canvas, relation, a, b, rng)
    return canvas.pixels()


_HATCH = 36  # amplitude of the lines, out of 255
# Diagonal lines, [64, 64, 1] in [-1, 1]: of every four pixels in a row, one is dark.
_LINES = np.cos(np.pi / 2 * np.add.outer(np.arange(SIZE_PX), np.arange(SIZE_PX)))[..., None]


def hatch(picture: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Adds fine diagonal lines, which have a single high frequency, to a picture, uint8 [64, 64, 3]."""
    return np.clip(np.round(picture + strength * _HATCH * _LINES), 0, 255).astype(np.uint8)


def hatching(images: np.ndarray) -> np.ndarray:
    """Measures how strong the lines of `hatch` are in images, float [N, 64, 64, 3] in [-1, 1].

    Returns float [N]: about 0 without the lines, about 1 with them.
    """
    return 2 * 127.5 / _HATCH * np.mean(images * _LINES, axis=(1, 2, 3))
