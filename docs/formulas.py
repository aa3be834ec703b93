"""Shows formulas as MathML, which browsers draw by themselves: the site needs no script from elsewhere."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def inline(translator: Any, node: nodes.math) -> None:
    """Writes a formula within a line."""
    _write(translator, node, as_block=False)


def block(translator: Any, node: nodes.math_block) -> None:
    """Writes a formula on separate lines."""
    _write(translator, node, as_block=True)


def _write(translator: Any, node: nodes.Element, as_block: bool) -> None:
    shown = convert(node.astext(), display="block" if as_block else "inline")
    translator.body.append(shown)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Adds the renderer that the setting html_math_renderer names."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
