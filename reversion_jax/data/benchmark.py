"""The ReVersion Benchmark: exemplars of ten relations, and the prompts that a learned relation is tried on.

Its pictures and prompts are under S-Lab License 1.0 (non-commercial) and not part of this package; what is read here is
the user's copy, as downloaded (a folder or a .zip), or any folder laid out like it:

    inside/0.jpg … 8.jpg, text.json    a relation, see exemplars.py
    hug/…
    scenarios.json                     prompts, if there are any: see `read_prompts`
"""

import ast
import os
import zipfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from reversion_jax.data.exemplars import CAPTIONS, read_captions, read_picture
from reversion_jax.data.relations import RELATIONS
from reversion_jax.inversion.prompts import Template
from reversion_jax.runtime import files

PROMPT_FILES = ("scenarios.json", "benchmark_scenarios.py")  # the second is the authors'

Place = Path | zipfile.Path  # a folder, or one within an archive
_AnyPlace = TypeVar("_AnyPlace", bound=Place)


class Record(NamedTuple):
    """An exemplar: its picture uint8 [H, W, 3] and what text.json says of it."""

    relation: str
    name: str
    image: np.ndarray
    templates: tuple[Template, ...]


def relation_folders(path: str | os.PathLike) -> dict[str, Place]:
    """The relations' folders in a benchmark folder or .zip, or one folder or .zip below; the ten first, in order.

    FileNotFoundError if there is nothing at `path`, ValueError if there is no relation in it.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder or .zip of the ReVersion Benchmark")
    for place in _places(root):
        found = {child.name: child for child in _sorted(place.iterdir()) if (child / CAPTIONS).is_file()}
        if found:
            first = [name for name in RELATIONS if name in found]
            return {name: found[name] for name in (*first, *sorted(set(found) - set(first)))}
    raise ValueError(f"{root}: no relation in it, a folder of pictures with {CAPTIONS}, such as inside/{CAPTIONS}")


def read_records(path: str | os.PathLike) -> Iterator[Record]:
    """Every exemplar of a benchmark, by relation, in text.json's order. Errors as in `relation_folders`, `read_folder`.

    Whole pictures as they are; EXIF orientation applied, transparency put on white.
    """
    for relation, folder in relation_folders(path).items():
        yield from read_relation(folder, relation)


def read_relation(folder: Place, relation: str) -> Iterator[Record]:
    """The exemplars of one relation's folder."""
    for name, templates in read_captions(folder).items():
        yield Record(relation, name, np.asarray(read_picture(folder / name)), tuple(templates))


def find_prompts(path: str | os.PathLike) -> Path | None:
    """The file of prompts (`PROMPT_FILES`) in a benchmark folder, or one folder below; None if there is none."""
    places = (Path(path), *_sorted(Path(path).iterdir())) if Path(path).is_dir() else ()
    return next((place / name for place in places for name in PROMPT_FILES if (place / name).is_file()), None)


def read_prompts(path: str | os.PathLike | None = None) -> dict[str, tuple[str, ...]]:
    """Templates of the prompts of each relation ("cat {} stone"), subject-major: 10 subjects × 10 objects.

    From a JSON file {relation: {"subjects": ["cat", …], "objects": ["stone", …]}} or {relation: ["cat {} stone", …]},
    or the authors' benchmark_scenarios.py, whose dict is read and whose code is not run. By default the package's own,
    which are not the authors'. FileNotFoundError, ValueError.
    """
    file = Path(path) if path is not None else resources.files(__package__) / "prompts.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of prompts: give a {' or '.join(PROMPT_FILES)}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = _literal(text) if file.name.endswith(".py") else files.from_json(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{file}: not readable as prompts: {error}") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f'{file}: want {{relation: {{"subjects": […], "objects": […]}}}}')
    return {relation: _templates(value, f"{file}, {relation}") for relation, value in found.items()}


def _templates(value: object, where: str) -> tuple[str, ...]:
    """What stands for a relation, as templates."""
    if isinstance(value, dict) and set(value) == {"subjects", "objects"}:
        subjects, objects = (_strings(value[key], f"{where}, {key}") for key in ("subjects", "objects"))
        return tuple(f"{subject} {{}} {other}" for subject in subjects for other in objects)
    templates = _strings(value, where)
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"{where}: {template!r} must hold one {{}}, as in 'cat {{}} stone'")
    return templates


def _strings(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{where}: want a list of one or more strings, not {str(value)[:60]!r}")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: {next(v for v in value if value.count(v) > 1)!r} stands there more than once")
    return tuple(value)


def _literal(source: str) -> object:
    """The dict that a Python file assigns, without running the file."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            return ast.literal_eval(statement.value)
    raise ValueError("no dict is assigned in it")


def _places(root: Path) -> Iterator[Place]:
    """Where the relations' folders may be: in the root, in a folder below, in a .zip there or in a folder of that."""
    for place in (root, *_sorted(root.iterdir())) if root.is_dir() else (root,):
        if place.is_dir():
            yield place
        elif zipfile.is_zipfile(place):
            archive = zipfile.Path(place)
            yield from (archive, *(child for child in _sorted(archive.iterdir()) if child.is_dir()))


def _sorted(places: Iterable[_AnyPlace]) -> list[_AnyPlace]:
    """Places by name, without hidden ones."""
    return sorted((place for place in places if place.name[:1] != "."), key=lambda place: place.name)
