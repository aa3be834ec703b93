"""Writes the site's pages of settings and commands, as Markdown, from the code that defines them.

All text about a setting or a flag comes from the code: settings.md shows the comments of
reversion_jax/config.py, and commands.md shows what each command prints for --help.
"""

import ast
import dataclasses
import inspect
import io
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reversion_jax import config
from reversion_jax.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of the config, as a reader sees it."""

    name: str
    kind: str  # the name of its type
    default: str  # "" if neither the code nor Stable Diffusion 1.5 has a default
    meaning: str  # the comment beside the setting or above it, on one line


def settings() -> list[tuple[str, list[Setting]]]:
    """Returns all settings in their order, as (heading, settings) of each group; a heading may be empty."""
    fields = {field.name: field for field in dataclasses.fields(config.Settings)}
    found = []
    for heading, meanings in commented(inspect.getsource(config.Settings)):
        group = []
        for name, meaning in meanings.items():
            default = config.FOR_SD15.get(name) if fields[name].default is None else fields[name].default
            shown = "" if default is None else repr(default)
            group.append(Setting(name, fields[name].type.__name__, shown, meaning))
        found.append((heading, group))
    return found


def commented(source: str) -> list[tuple[str, dict[str, str]]]:
    """Returns the groups of a dataclass's fields: each group's heading, and the comments of its fields by name.

    A comment beside a field or directly above it belongs to the field. In a group of several fields, the comment
    above the first field begins with the group's heading. If the first field also has a comment beside it, the
    whole comment above is the heading; otherwise the heading is the lines up to a full stop.
    """
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.removeprefix("#").strip()
            if token.line.strip().startswith("#"):
                alone.add(token.start[0])
    (tree,) = ast.parse(source).body
    fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    lines = ["", *source.splitlines()]  # the first line has the number 1
    found: list[tuple[str, dict[str, str]]] = []
    for field in fields:
        first = field.lineno
        while first - 1 in alone:
            first -= 1
        above = [comments[number] for number in range(first, field.lineno)]
        beside = [comments[field.end_lineno]] if field.end_lineno in comments else []
        if not lines[first - 1].strip():  # a blank line: a group begins
            has_more = any(node.lineno > field.lineno for node in fields) and bool(lines[field.end_lineno + 1].strip())
            heading: list[str] = []
            while has_more and above and not (heading and heading[-1].endswith(".") and not beside):
                heading.append(above.pop(0))
            found.append((" ".join(heading), {}))
        found[-1][1][field.target.id] = " ".join(above + beside)
    return found


def settings_page() -> str:
    """Returns the tables of all settings, one for each group."""
    parts = []
    for heading, group in settings():
        title, text = _heading(heading, group)
        rows = [[f"`{s.name}`", s.kind, f"`{s.default}`" if s.default else "", _meaning(s)] for s in group]
        parts += [f"## {title}", markdown(text), table(["setting", "type", "default", "meaning"], rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(comment: str, group: Sequence[Setting]) -> tuple[str, str]:
    """Returns a group's title, which is its first setting if it has no comment, and the rest of the comment."""
    title, _, text = re.sub(r"(?<!Eq)[.:](?= |$)", "\n", comment, count=1).partition("\n")
    return title or f"`{group[0].name}`", text.strip()


def _meaning(setting: Setting) -> str:
    """Returns a setting's comment, with marks if each run or a resumed run may have a separate value."""
    marks = [mark for mark, names in (("per run", config.OF_RUN), ("on resume", config.FREE)) if setting.name in names]
    return " ".join([markdown(setting.meaning), *(f"*({mark})*" for mark in marks)]).strip()


def helps() -> dict[str, str]:
    """Returns what every command prints for --help, by the command's name."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(COMMANDS, pool.map(_help, COMMANDS), strict=True))


def _help(command: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-m", f"reversion_jax.{command}", "--help"]
    return subprocess.run(line, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


def parse_help(printed: str) -> tuple[str, dict[str, str]]:
    """Splits what --help prints into the command's description, and the text of each flag by the flag's name."""
    before, *after = re.split(r"^  --(\w+) +", printed, flags=re.MULTILINE)
    return before.strip(), {name: " ".join(text.split()) for name, text in zip(after[::2], after[1::2], strict=True)}


def commands_page() -> str:
    """Returns a section for each command: its description and the table of its flags."""
    parts = []
    for name, printed in helps().items():
        description, flags = parse_help(printed)
        rows = [[f"`--{flag}`", markdown(text)] for flag, text in flags.items()]
        parts += [f"## {name}", text_page(description), table(["flag", "meaning and [default]"], rows)]
    return "\n\n".join(parts) + "\n"


def text_page(text: str) -> str:
    """Returns a docstring's plain text as Markdown: its paragraphs, and command lines as blocks of code."""
    parts = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if all(line.startswith(("    ", "python -m ")) for line in lines):
            parts.append(f"```shell\n{textwrap.dedent(paragraph)}\n```")
        else:
            parts.append(markdown(" ".join(lines)))
    return "\n\n".join(parts)


def markdown(text: str) -> str:
    """Returns plain text as Markdown that shows the same characters.

    Text between backticks stays code, and the name of one of the site's pages, such as docs/app.md, becomes a link.
    """
    parts = re.split(r"(`[^`]*`|docs/\w+\.md)", text)
    for number, part in enumerate(parts):
        if part.startswith("docs/"):
            parts[number] = f"[{part}]({part.removeprefix('docs/')})"
        elif not part.startswith("`"):
            parts[number] = re.sub(r"([\\*_<>\[\]$`])", r"\\\1", part)
    return "".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the text of its cells is Markdown too."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
