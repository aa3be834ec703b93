"""Captions as a person types them: what is wrong with one, and which prompts it becomes."""

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
    """What one caption becomes: prompts, or what is wrong with it."""

    template: Template
    direct: str = ""
    inverse: str = ""  # only if it was asked for
    fault: str = ""


def check(caption: str, invertible: bool) -> Checked:
    """Checks one caption, such as "a photo of cat {} stone"; `invertible`: it also needs an inverse prompt.

    A caption may be the explicit form in JSON, {"text": …, "subject": …, "object": …}.
    """
    template: Template = " ".join(caption.split())
    try:
        if len(caption) > MAX_LETTERS:
            raise ValueError(f"a caption has at most {MAX_LETTERS} letters")
        check_text(caption)
        if caption.strip().startswith('{"'):
            template = files.from_json(caption)
        if isinstance(template, str) and "{}" not in template:
            raise ValueError("write {} where the relation stands, as in: cat {} stone")
        prompt = parse(template)
        return Checked(template, prompt.direct(), prompt.inverse() if invertible else "")
    except ValueError as error:
        return Checked(template, fault=plain(str(error)))


def lines(text: str) -> list[str]:
    """The lines of a text box that hold something."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def templates(text: str, where: str, invertible: bool) -> list[Template]:
    """The templates of one picture's captions, one a line. ValueError, which names the picture."""
    checked = [check(line, invertible) for line in lines(text)]
    if not checked:
        raise ValueError(f"{where} has no caption: say what it shows, with {{}} for the relation")
    for one in checked:
        if one.fault:
            raise ValueError(f"{where}: {one.fault}")
    return [one.template for one in checked]


def read_file(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The captions of an uploaded text.json by picture's name, one a line, for those of `names`. ValueError."""
    try:
        found = files.from_json(path.read_bytes().decode("utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError("want captions by the names of pictures")
        return {name: "\n".join(_as_typed(one) for one in found[name]) for name in names if name in found}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{exemplars.CAPTIONS} cannot be read: {error}") from error


def _as_typed(template: Template) -> str:
    return template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)


def with_relation(prompt: str, token: str = RELATION) -> str:
    """A prompt as it is drawn: `{}` stands for the learned word."""
    return prompt.replace("{}", token)


def as_template(prompt: str) -> str:
    """A prompt with `{}` where its learned words stand."""
    return re.sub(rf"{re.escape(INVERSE)}\s+{re.escape(RELATION)}|{re.escape(RELATION)}", "{}", prompt)
