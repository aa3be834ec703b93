"""Checks that README is short, that links in README and docs/ lead somewhere, and that quoted messages exist."""

import ast
import re
import runpy
from pathlib import Path

import pytest
from places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Matches a table row whose first column names a symptom and then quotes one or more messages of a command.
QUOTED = re.compile(r"\| [^|`]*: (`[^`]+`[^|]*)")


def prose(page: Path) -> str:
    """Returns a page's text without its fenced blocks. In fenced blocks, # begins a comment, not a heading."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub and MyST make for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def messages() -> list[str]:
    """Returns all strings in the package and the text of the notebooks. In an f-string, … replaces each value."""
    found = []
    for path in (ROOT / "reversion_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    notebooks = [path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb")]
    return [" ".join(text.split()) for text in found + notebooks]


def has_pieces(text: str, quote: str) -> bool:
    """Returns whether the text has all parts of a quote, which … separates, in the order of the quote."""
    end = 0
    for piece in quote.split("…"):
        start = text.find(piece.strip(), end)
        if start < 0:
            return False
        end = start + len(piece.strip())
    return True


def test_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or file.suffix != ".md" or anchor in anchors(file), target


def test_troubleshooting_quotes_messages_of_the_code():
    known = messages()
    rows = (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
    quotes = [quote for row in rows if (match := QUOTED.match(row)) for quote in re.findall(r"`([^`]+)`", match[1])]
    assert len(quotes) > 30
    assert [quote for quote in quotes if not any(has_pieces(text, quote) for text in known)] == []


def test_the_architecture_page_shows_what_the_code_imports():
    """The page has a picture, which docs/draw_architecture.py draws, and a table."""
    code = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    below = code["imports"]()
    assert code["draw"](below) == (ROOT / "docs" / "architecture.svg").read_text()
    rows = re.findall(
        r"^\| \d \| (.*?) \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE
    )
    shown = {name: set(re.findall(r"`(\w+)`", others)) for names, others in rows for name in re.findall(r"\w+", names)}
    assert shown == below
