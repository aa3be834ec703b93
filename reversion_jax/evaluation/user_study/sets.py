"""Chooses and shuffles the sets that voters compare; a set has one prompt and one picture of it by each method.

The pictures come from an evaluation's folder, which contains:

    pictures.json           [{"relation": "hug", "method": "reversion", "seed": 0, "prompt": "cat <R> owl",
                              "file": "hug/reversion/0.png"}, …]; the prompt is the same text for every method
    exemplars/hug/*.png     and optionally a text.json with their captions
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from reversion_jax.data import exemplars
from reversion_jax.inversion.prompts import parse
from reversion_jax.runtime import files

PICTURES = "pictures.json"


class Picture(NamedTuple):
    """One generated picture."""

    relation: str
    method: str
    seed: int  # seed of the picture's noise
    prompt: str
    file: Path  # a path that can be opened


class StudySet(NamedTuple):
    """The pictures of one prompt by all methods, in the order in which the page shows them."""

    relation: str
    prompt: str
    pictures: tuple[Picture, ...]


def read_pictures(evaluation: Path) -> list[Picture]:
    """Reads the list of pictures in an evaluation's folder.

    Raises FileNotFoundError or ValueError, naming the file and the record, if a file is missing or a record is wrong.
    """
    file = evaluation / PICTURES
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file: give --evaluation a folder of pictures with {PICTURES}")
    try:
        records = files.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from error
    kinds = {name: int if name == "seed" else str for name in Picture._fields}
    pictures = {}
    for number, record in enumerate(records if isinstance(records, list) else [records]):
        if not isinstance(record, dict) or any(type(record.get(name)) is not kind for name, kind in kinds.items()):
            raise ValueError(f"{file}, [{number}]: must be an object with {', '.join(kinds)}; seed is a whole number")
        picture = Picture(**{name: record[name] for name in kinds})._replace(file=evaluation / record["file"])
        if not picture.file.is_file():
            raise FileNotFoundError(f"{picture.file}: no such picture, although {PICTURES} names it")
        if picture[:4] in pictures:
            raise ValueError(f"{file}, [{number}]: a second picture of relation, method, seed, prompt {picture[:4]}")
        pictures[picture[:4]] = picture
    return list(pictures.values())


def read_exemplars(evaluation: Path, relation: str) -> list[tuple[Image.Image, str]]:
    """Reads a relation's exemplars, each with its first template, or "" if there is no text.json.

    Raises FileNotFoundError if there are no exemplars.
    """
    folder = evaluation / "exemplars" / relation
    if (folder / exemplars.CAPTIONS).is_file():
        captions = {name: parse(own[0]).fill("{}") for name, own in exemplars.read_captions(folder).items()}
    else:
        captions = {file.name: "" for file in sorted(folder.glob("*.png"))}
    if not captions:
        raise FileNotFoundError(
            f"{folder}: no exemplars of {relation}: put the pictures from which it was learned there"
        )
    return [(exemplars.read_picture(folder / name), template) for name, template in captions.items()]


def choose(pictures: Sequence[Picture], methods: Sequence[str], sets_per_relation: int, seed: int) -> list[StudySet]:
    """Chooses `sets_per_relation` prompts of each relation at random, and shuffles the sets and the pictures in them.

    A set has one picture by each method, all with the same seed. The choice depends on `seed` and on the pictures, but
    not on the order in which they are listed. Raises ValueError if a relation has too few prompts that all methods have
    drawn with the same seed.
    """
    known = sorted({picture.method for picture in pictures})
    if unknown := [method for method in methods if method not in known]:
        raise ValueError(f"no pictures by {unknown[0]!r}: --methods can be {', '.join(known)}")
    if len(set(methods)) != len(methods) or not 2 <= len(methods) <= 26:
        raise ValueError(f"methods {', '.join(methods)}: a comparison needs 2 to 26 different methods")
    drawn: defaultdict[tuple[str, str, int], dict[str, Picture]] = defaultdict(dict)
    for picture in pictures:
        drawn[picture.relation, picture.prompt, picture.seed][picture.method] = picture
    complete: defaultdict[str, defaultdict[str, list[list[Picture]]]] = defaultdict(lambda: defaultdict(list))
    for (relation, prompt, _), by_method in sorted(drawn.items()):
        if set(methods) <= set(by_method):
            complete[relation][prompt].append([by_method[method] for method in methods])
    rng = random.Random(seed)
    chosen = []
    for relation in sorted({picture.relation for picture in pictures}):
        if len(complete[relation]) < sets_per_relation:
            raise ValueError(
                f"{relation}: {len(complete[relation])} prompts drawn by all of {', '.join(methods)} with one seed, "
                f"fewer than --sets_per_relation={sets_per_relation}"
            )
        for prompt in rng.sample(list(complete[relation]), sets_per_relation):
            own = rng.choice(complete[relation][prompt])
            chosen.append(StudySet(relation, prompt, tuple(rng.sample(own, len(own)))))
    rng.shuffle(chosen)
    return chosen
