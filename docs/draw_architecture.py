"""Draws docs/architecture.svg from the package's own imports: python docs/draw_architecture.py

Each box is a file or a folder at the package's top. A box is one layer above the highest box that it imports.
"""

import ast
from functools import cache
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "reversion_jax"
COMMANDS = "commands"  # the box of all files at the package's top except config.py
HOLDS = {
    COMMANDS: "flags, one call each",
    "evaluation": "comparisons, scores, study",
    "training": "loop, reports, app",
    "drawing": "prompts to pictures",
    "miniature": "embedded model, judge",
    "runs": "a run's folder, export",
    "data": "exemplars, benchmark",
    "weights": "files to parameters",
    "inversion": "the method",
    "models": "the networks",
    "diffusion": "schedule, samplers",
    "runtime": "devices, files, errors",
    "config": "every setting",
}
WIDTH, HEIGHT, GAP = 190, 52, 26  # a box's width and height, and the gap between boxes, px


def box(name: str) -> str:
    """Returns the box of the module with the path `name` below the package."""
    top = name.split(".")[0]
    return top if (PACKAGE / top).is_dir() or top == "config" else COMMANDS


def imports() -> dict[str, set[str]]:
    """Returns which boxes each box imports, anywhere in its files."""
    found: dict[str, set[str]] = {name: set() for name in HOLDS}
    for path in PACKAGE.rglob("*.py"):
        mine = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if mine == "__init__":  # the public interface, which imports a module only when a user needs it
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            below = [name.removeprefix("reversion_jax.") for name in modules if name.startswith("reversion_jax.")]
            found[box(mine)] |= {box(name) for name in below} - {box(mine)}
    return found


def draw(below: dict[str, set[str]]) -> str:
    """Returns the picture of the imports as SVG; `below` has the boxes that each box imports."""

    @cache
    def layer(name: str) -> int:
        return 1 + max((layer(other) for other in below[name]), default=-1)

    layers: dict[int, list[str]] = {}
    for name in sorted(HOLDS, key=lambda name: (layer(name), name)):
        layers.setdefault(layer(name), []).append(name)
    columns, top = max(map(len, layers.values())), max(layers)
    width, height = columns * (WIDTH + GAP) + GAP, (top + 1) * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, names in layers.items():
        left = (width - len(names) * (WIDTH + GAP) + GAP) / 2
        y = GAP + (top - number) * (HEIGHT + GAP)
        for i, name in enumerate(names):
            x = left + i * (WIDTH + GAP)
            middle = x + WIDTH / 2
            fill = "#e0e7ff" if name in ("inversion", "models", "diffusion") else "#f3f4f6"
            parts += [
                f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="#6b7280"/>',
                f'<text x="{middle}" y="{y + 21}" text-anchor="middle" font-size="15" fill="#111827">{name}</text>',
                f'<text x="{middle}" y="{y + 40}" text-anchor="middle" font-size="12" fill="#4b5563">'
                f"{escape(HOLDS[name])}</text>",
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    (DOCS / "architecture.svg").write_text(draw(imports()))


if __name__ == "__main__":
    main()
