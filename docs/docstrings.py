"""Turns the package's docstrings, which are plain text, into the reStructuredText that autodoc expects.

A docstring names a parameter as "name: what it is", and shows code by indentation. The fields of a dataclass or a
NamedTuple are described by the comments beside them.
"""

import dataclasses
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from generated import commented


def process(_app: Any, what: str, _name: str, documented: Any, _options: Any, lines: list[str]) -> None:
    """Rewrites `lines`, a docstring, in place. Sphinx calls this function for the event autodoc-process-docstring."""
    fields = {}
    if what == "class" and (dataclasses.is_dataclass(documented) or hasattr(documented, "_fields")):
        groups = commented(textwrap.dedent(inspect.getsource(documented)))
        fields = {name: text for _, group in groups for name, text in group.items()}
    parameters = (
        [name for name in inspect.signature(documented).parameters if name != "self"] if callable(documented) else []
    )
    lines[:] = rewrite("\n".join(lines), parameters, fields)


def skip(_app: Any, _what: str, _name: str, member: Any, _skip: bool, _options: Any) -> bool | None:
    """Leaves out a NamedTuple's fields, because the class lists them.

    Sphinx calls this function for the event autodoc-skip-member.
    """
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def rewrite(text: str, parameters: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """Returns a docstring's lines: the paragraphs, the errors, then a list of all parameters, described or not."""
    paragraphs, errors, described = [], [], dict(fields)
    for is_code, group in itertools.groupby(re.split(r"\n\s*\n", text.strip("\n")), _is_code):
        if is_code:
            code = "\n\n".join(group)
            language = "python" if "import " in code else "text"
            paragraphs.append(f".. code-block:: {language}\n\n{textwrap.indent(textwrap.dedent(code), '   ')}")
            continue
        for paragraph in group:
            for name, said in _described(paragraph, parameters):
                said, *raised = re.split(r"(?<=[.;]) (?=(?:Raises )?\w+Error\b)", said, maxsplit=1)
                errors += raised
                if name:
                    described[name] = said
                elif said:
                    paragraphs.append(plain(said))
    paragraphs += [plain(error if error.startswith("Raises") else f"Raises {error}") for error in errors]
    listed = [f":param {name}: {plain(described.get(name, ''))}" for name in parameters]
    return [*"\n\n".join([*paragraphs, "\n".join(listed)]).splitlines(), ""]


def _is_code(paragraph: str) -> bool:
    return all(line.startswith("    ") for line in paragraph.splitlines())


def _described(paragraph: str, parameters: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields pairs (name, text): ("", the text before any parameter), then each parameter with its description."""
    names = "|".join(parameters) or "(?!)"  # (?!) matches nothing
    before, *after = re.split(rf"(?:^|(?<=[.;…] )|(?<=\n))({names}): ", paragraph)
    yield "", " ".join(before.split())
    for name, said in zip(after[::2], after[1::2], strict=True):
        yield name, " ".join(said.split())


def plain(text: str) -> str:
    """Returns plain text as reStructuredText that shows the same characters; text between backticks is code."""
    parts = re.split(r"`([^`]*)`", text)
    parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    return "".join(parts)
