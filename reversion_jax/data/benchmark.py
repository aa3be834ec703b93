"""Reads the ReVersion Benchmark: exemplars of ten relations, and prompts for testing a learned relation.

The benchmark's pictures and prompts are under S-Lab License 1.0 (non-commercial), so this package does not contain
them. This module reads the copy that the user downloaded (a folder or a .zip file), or any folder of the same layout:

    inside/0.jpg … 8.jpg, text.json    the exemplars of one relation, see exemplars.py
    hug/…
    scenarios.json                     prompts (optional), see `read_prompts`
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

PROMPT_FILES = ("scenarios.json", "benchmark_scenarios.py")  # ReVersion's authors publish the second file

Place = Path | zipfile.Path  # a folder on disk, or a folder inside a .zip file
_AnyPlace = TypeVar("_AnyPlace", bound=Place)


class Record(NamedTuple):
    """One exemplar: a picture, and its templates from text.json."""

    relation: str
    name: str  # name of the picture's file, such as "0.jpg"
    image: np.ndarray  # uint8 [H, W, 3]
    templates: tuple[Template, ...]


def relation_folders(path: str | os.PathLike) -> dict[str, Place]:
    """Returns the folder of each relation in a benchmark, by the relation's name.

    `path` is the benchmark's folder or .zip file, or a folder that contains such a folder or file. The ten relations of
    the ReVersion Benchmark come first, in the order of `RELATIONS`; other relations follow, sorted by name. Raises
    FileNotFoundError if `path` does not exist, and ValueError if it contains no relation.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder or .zip file: give the path of a ReVersion Benchmark")
    for place in _places(root):
        found = {child.name: child for child in _sorted(place.iterdir()) if (child / CAPTIONS).is_file()}
        if found:
            first = [name for name in RELATIONS if name in found]
            return {name: found[name] for name in (*first, *sorted(set(found) - set(first)))}
    raise ValueError(
        f"{root}: no relation found: give a folder that contains a folder of pictures and {CAPTIONS} for each relation"
    )


def read_records(path: str | os.PathLike) -> Iterator[Record]:
    """Yields every exemplar of a benchmark, one relation after another, in the order of text.json.

    Pictures keep their size. The EXIF orientation of a picture is applied, and transparent pixels are blended with
    white. Raises the same errors as `relation_folders` and `exemplars.read_folder`.
    """
    for relation, folder in relation_folders(path).items():
        yield from read_relation(folder, relation)


def read_relation(folder: Place, relation: str) -> Iterator[Record]:
    """Yields the exemplars in the folder of one relation, in the order of text.json."""
    for name, templates in read_captions(folder).items():
        yield Record(relation, name, np.asarray(read_picture(folder / name)), tuple(templates))


def find_prompts(path: str | os.PathLike) -> Path | None:
    """Returns the path of the prompt file (see `PROMPT_FILES`) in a folder or one level below; None if not found."""
    places = (Path(path), *_sorted(Path(path).iterdir())) if Path(path).is_dir() else ()
    return next((place / name for place in places for name in PROMPT_FILES if (place / name).is_file()), None)


def read_prompts(path: str | os.PathLike | None = None) -> dict[str, tuple[str, ...]]:
    """Reads the prompts of each relation as templates, such as "cat {} stone".

    `path` is a JSON file {relation: value}, or benchmark_scenarios.py from ReVersion's authors; the dict in
    benchmark_scenarios.py is read without running the file. A value is a list of templates, or {"subjects": ["cat", …],
    "objects": ["stone", …]}. Subjects and objects give one template for each pair: the first subject with every object,
    then the second subject with every object, and so on.

    Without `path`, reads the package's own prompts: 10 subjects × 10 objects for each relation. The package's prompts
    are not those of ReVersion's authors. Raises FileNotFoundError if the file does not exist, and ValueError if its
    content is not as described.
    """
    file = Path(path) if path is not None else resources.files(__package__) / "prompts.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of prompts: give a {' or a '.join(PROMPT_FILES)}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = _literal(text) if file.name.endswith(".py") else files.from_json(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{file}: not readable as prompts: {error}") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f'{file}: it must contain {{relation: {{"subjects": […], "objects": […]}}}}')
    return {relation: _templates(value, f"{file}, {relation}") for relation, value in found.items()}


def _templates(value: object, where: str) -> tuple[str, ...]:
    """Returns the templates that a prompt file gives for one relation; error messages begin with `where`."""
    if isinstance(value, dict) and set(value) == {"subjects", "objects"}:
        subjects, objects = (_strings(value[key], f"{where}, {key}") for key in ("subjects", "objects"))
        return tuple(f"{subject} {{}} {other}" for subject in subjects for other in objects)
    templates = _strings(value, where)
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"{where}: {template!r} must contain {{}} once, as in 'cat {{}} stone'")
    return templates


def _strings(value: object, where: str) -> tuple[str, ...]:
    """Checks that a value is a list of different strings, and returns it as a tuple; messages begin with `where`."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{where}: must be a list of one or more strings, not {str(value)[:60]!r}")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: {next(v for v in value if value.count(v) > 1)!r} is repeated: list it once")
    return tuple(value)


def _literal(source: str) -> object:
    """Returns the first dict that a Python file assigns to a name, without running the file."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            return ast.literal_eval(statement.value)
    raise ValueError("the file assigns no dict to a name")


def _places(root: Path) -> Iterator[Place]:
    """Yields the places that may contain the folders of the relations.

    These places are the root, the folders in it, the .zip files in it, and the folders in those .zip files. The root
    itself may be a .zip file.
    """
    for place in (root, *_sorted(root.iterdir())) if root.is_dir() else (root,):
        if place.is_dir():
            yield place
        elif zipfile.is_zipfile(place):
            archive = zipfile.Path(place)
            yield from (archive, *(child for child in _sorted(archive.iterdir()) if child.is_dir()))


def _sorted(places: Iterable[_AnyPlace]) -> list[_AnyPlace]:
    """Sorts files and folders by name, and leaves out hidden files and folders."""
    return sorted((place for place in places if place.name[:1] != "."), key=lambda place: place.name)
