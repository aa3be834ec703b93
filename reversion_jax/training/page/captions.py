"""Checks the captions that a user types, and turns them into templates and prompts."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reversion_jax.data import exemplars
from reversion_jax.inversion.prompts import INVERSE, RELATION, Template, parse
from reversion_jax.models.tokenizer import check_text
from reversion_jax.runtime import files
from reversion_jax.training.page.faults import plain

MAX_LETTERS = 500


class Checked(NamedTuple):
    """The result of checking a caption: its prompts, or what is wrong with it."""

    template: Template
    direct: str = ""  # the direct prompt
    inverse: str = ""  # the inverse prompt; "" if none was requested
    fault: str = ""  # what is wrong with the caption; "" if it is valid


def check(caption: str, invertible: bool) -> Checked:
    """Checks one caption, such as "a photo of cat {} stone".

    invertible: whether the caption also needs an inverse prompt.
    A caption may also have the explicit form, as JSON: {"text": …, "subject": …, "object": …}.
    """
    template: Template = " ".join(caption.split())
    try:
        if len(caption) > MAX_LETTERS:
            raise ValueError(f"a caption has at most {MAX_LETTERS} letters")
        check_text(caption)
        if caption.strip().startswith('{"'):
            template = files.from_json(caption)
        if isinstance(template, str) and "{}" not in template:
            raise ValueError("write {} in place of the relation, as in: cat {} stone")
        prompt = parse(template)
        return Checked(template, prompt.direct(), prompt.inverse() if invertible else "")
    except ValueError as error:
        return Checked(template, fault=plain(str(error)))


def lines(text: str) -> list[str]:
    """Returns a text box's lines without the spaces around each line; leaves out empty lines."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def templates(text: str, where: str, invertible: bool) -> list[Template]:
    """Returns the templates of one picture's captions, one for each line of `text`.

    where: the picture's name, for messages. Raises ValueError for a missing or wrong caption.
    """
    checked = [check(line, invertible) for line in lines(text)]
    if not checked:
        raise ValueError(f"{where} has no caption: write what it shows, with {{}} for the relation")
    for one in checked:
        if one.fault:
            raise ValueError(f"{where}: {one.fault}")
    return [one.template for one in checked]


def read_file(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Reads an uploaded text.json; returns captions, one per line, for each picture in `names`.

    Raises ValueError if the file cannot be read.
    """
    try:
        found = files.from_json(path.read_bytes().decode("utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError("it must map the names of pictures to captions")
        return {name: "\n".join(_as_typed(one) for one in found[name]) for name in names if name in found}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{exemplars.CAPTIONS} cannot be read: {error}") from error


def _as_typed(template: Template) -> str:
    return template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)


def with_relation(prompt: str, token: str = RELATION) -> str:
    """Returns the prompt with the learned word `token` in place of `{}`."""
    return prompt.replace("{}", token)


def as_template(prompt: str) -> str:
    """Returns the prompt with `{}` in place of its learned words."""
    return re.sub(rf"{re.escape(INVERSE)}\s+{re.escape(RELATION)}|{re.escape(RELATION)}", "{}", prompt)
