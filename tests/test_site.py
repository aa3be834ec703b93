"""Tests the pages of the documentation site that are made from the code. The site's build checks links; see .ci/run."""

import dataclasses
import io
import re

import pytest
from places import ROOT

from reversion_jax import config
from reversion_jax.__main__ import COMMANDS


@pytest.fixture
def generated(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import generated

    return generated


@pytest.fixture
def docstrings(generated):
    import docstrings

    return docstrings


def test_every_setting_is_listed_with_its_default(generated):
    listed = [setting for _, group in generated.settings() for setting in group]
    assert [setting.name for setting in listed] == [field.name for field in dataclasses.fields(config.Settings)]
    found = {setting.name: setting for setting in listed}
    assert (found["steps"].kind, found["steps"].default) == ("int", "3000")
    assert found["precision"].default == "'auto'"
    assert found["suppressor_sigma_px"].default == ""
    assert "bfloat16" in found["precision"].meaning
    assert "text.json" in found["exemplars"].meaning
    page = generated.settings_page()
    for setting in listed:
        assert page.count(f"\n| `{setting.name}` | ") == 1


SOURCE = '''
class Settings:
    """What it is."""

    # What is learned, and from what.
    # A folder, or
    # an id.
    model: str = ""
    vae: str = ""  # another VAE

    # Several runs.
    runs: tuple = ()

    # The loss (Eq. 10): the sum
    # of both.
    weight: float = 1.0  # the weight
    other: float = 1.0

    def method(self):
        # not a field
        return 0
'''


def test_each_comment_in_settings_is_listed_with_its_setting(generated):
    assert generated.commented(SOURCE.strip()) == [
        ("What is learned, and from what.", {"model": "A folder, or an id.", "vae": "another VAE"}),
        ("", {"runs": "Several runs."}),
        ("The loss (Eq. 10): the sum of both.", {"weight": "the weight", "other": ""}),
    ]


def test_every_command_is_listed_with_its_flags(generated):
    page = generated.commands_page()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(COMMANDS)
    assert page.count("| `--workdir` | ") == 7
    (row,) = (line for line in page.splitlines() if line.startswith("| `--port` | "))
    assert row.endswith("\\[7860\\] |")


def test_a_help_text_is_parsed(generated):
    flags = ["  --clip_skip       Last layers", "                    left out.", "  --out   Where.", ""]
    printed = "\n".join(["Draws: python -m reversion_jax.sample", "", *flags])
    assert generated.parse_help(printed) == (
        "Draws: python -m reversion_jax.sample",
        {"clip_skip": "Last layers left out.", "out": "Where."},
    )


def test_plain_text_is_shown_literally(generated):
    assert generated.markdown("a <R> b_c `x_<y>` [1] see docs/app.md") == (
        "a \\<R\\> b\\_c `x_<y>` \\[1\\] see [docs/app.md](app.md)"
    )
    assert generated.table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |"
    assert generated.text_page("Draws:\n\n    python -m x\n\nand <R>\nmore.") == (
        "Draws:\n\n```shell\npython -m x\n```\n\nand \\<R\\> more."
    )


def test_a_docstring_becomes_a_list_of_parameters(docstrings):
    text = """Draws images of `prompts`.

seeds: of the noise. progress: a label_
of the bar. ValueError for bad input.

    import this

    print(this)
"""
    assert docstrings.rewrite(text, ["prompts", "seeds", "progress"], {}) == [
        "Draws images of ``prompts``.",
        "",
        ".. code-block:: python",
        "",
        "   import this",
        "",
        "   print(this)",
        "",
        "Raises ValueError for bad input.",
        "",
        ":param prompts: ",
        ":param seeds: of the noise.",
        ":param progress: a label\\_ of the bar.",
        "",
    ]


@pytest.mark.filterwarnings("default")  # Sphinx warns about its extensions
@pytest.mark.parametrize("url", ["", "https://host/us/repository"])
def test_links_to_files_lead_to_the_repository_or_to_a_copy(url, generated, monkeypatch, tmp_path):
    """Links lead to the repository if its address is known, else to a copy of the file. A folder has no copy."""
    pytest.importorskip("myst_parser")
    import links
    from sphinx.application import Sphinx

    monkeypatch.setattr(links, "ROOT", tmp_path)
    for name in ("docs/index.md", "docs/other.md", "docs/cells/kept.md", "package/code.py", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# A title\n")
    targets = [
        "../package/code.py",
        "../package",
        "cells/kept.md",
        "other.md#a-title",
        "../README.md#start",
        "../gone.py",
    ]
    text = "\n".join(f"[to {number}]({target})" for number, target in enumerate(targets))
    (tmp_path / "docs" / "index.md").write_text(f"# Index\n\n{text}\n\n```{{toctree}}\nother\n```\n")
    settings = {"extensions": ["myst_parser"], "exclude_patterns": ["cells"], "myst_heading_anchors": 2}
    warned = io.StringIO()
    places = [tmp_path / "docs", None, tmp_path / "site", tmp_path / "site" / "trees"]
    app = Sphinx(*places, "html", confoverrides=settings, status=None, warning=warned)
    app.add_config_value("repository_url", url, "env")
    app.add_transform(links.RepositoryLinks)
    app.build()
    page = (tmp_path / "site" / "index.html").read_text()
    led = {
        text: target for target, text in re.findall(r'<a class="[^"]*" (?:download="" )?href="([^"]*)".*?(to \d)', page)
    }
    if url:
        assert led["to 0"] == f"{url}/blob/main/package/code.py"
        assert led["to 1"] == f"{url}/tree/main/package"
        assert led["to 2"] == f"{url}/blob/main/docs/cells/kept.md"
    else:
        assert (tmp_path / "site" / led["to 0"]).read_bytes() == (tmp_path / "package" / "code.py").read_bytes()
        assert "to 1" not in led
        assert led["to 2"].startswith("_downloads/")
    assert (led["to 3"], led["to 4"]) == ("other.html#a-title", "#")
    (warning,) = (line for line in warned.getvalue().splitlines() if "index.md:" in line)
    assert "target not found: '../gone.py'" in warning
