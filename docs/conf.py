"""Builds the site: sphinx-build -W --keep-going docs docs/_build

Sphinx reads the pages in Markdown. The pages of settings and commands end with tables that are made from the code.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import docstrings  # noqa: E402 (these three modules are beside this file)
import generated  # noqa: E402
import links  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

_PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
release = version = _PROJECT["version"]
author = copyright = "the authors of reversion_jax, Apache License 2.0"
html_title = f"{project} {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "formulas"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "cells"]
smartquotes = False  # quotes in the pages are often a setting's value

myst_heading_anchors = 4  # headings of the levels 1 to 4 get anchors, as on GitHub
myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_digits = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
add_module_names = False
nitpicky = True
# The site is built offline, so the types of other packages are not links.
nitpick_ignore_regex = [(r"py:.*", r"(?!reversion_jax\.).*")]
# These types are parts of a loaded model. Callers pass the model on and do not use its parts.
nitpick_ignore = [
    ("py:class", "reversion_jax.weights.folder.StableDiffusion"),
    ("py:class", "reversion_jax.models.tokenizer.Tokenizer"),
]

html_theme = "furo"
html_show_sphinx = False
html_math_renderer = "mathml"  # see formulas.py
html_static_path = ["style"]
html_css_files = ["formulas.css"]


def _add_generated(app: Sphinx, docname: str, source: list[str]) -> None:
    """Appends the tables that are made from the code to the pages of settings and commands."""
    pages = {
        "settings": (generated.settings_page, ["config"]),
        "commands": (generated.commands_page, generated.COMMANDS),
    }
    if docname in pages:
        make, modules = pages[docname]
        source[0] += f"\n{make()}"
        for module in modules:
            app.env.note_dependency(str(HERE.parent / "reversion_jax" / f"{module}.py"), docname=docname)


def setup(app: Sphinx) -> None:
    # This value is the repository's address, or "" if pyproject.toml does not have the address.
    app.add_config_value("repository_url", _PROJECT.get("urls", {}).get("Repository", ""), "env")
    app.add_transform(links.RepositoryLinks)
    app.connect("source-read", _add_generated)
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("autodoc-skip-member", docstrings.skip)
