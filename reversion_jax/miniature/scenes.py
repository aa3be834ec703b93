"""Draws and describes the scenes that the miniature model knows: two coloured shapes in one of twelve relations.

Ten relations have the names of relations in the ReVersion Benchmark; two more (`beside`, `above`) are simple relations.
Five relations (UNNAMED) have no special word: a third of their captions describe the relation with words that other
relations use too, and the other captions only say "A and B". One pair of entities in ten is held out: it is in no
caption and no exemplar that a model is trained on. A quarter of the pictures are hatched, and their captions mention
the hatching. Hatching is a style that exemplars can have, and that a learned word can wrongly add to pictures.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from reversion_jax.data.exemplars import Exemplars, resized
from reversion_jax.data.relations import SYMMETRIC as SYMMETRIC
from reversion_jax.inversion.prompts import parse
from reversion_jax.miniature.drawing import COLOURS, SHAPES, Colour, compose, hatch

# The words for each relation "A <relation> B": first for captions "A <words> B", then for captions "B <words> A".
CAPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "on": (
        ("on", "on top of", "atop", "upon", "standing on", "sitting on", "resting on", "pressed on"),
        ("supporting",),
    ),
    "inside": (
        ("inside", "in", "within", "sitting inside", "resting within", "in cut"),
        ("around", "containing"),
    ),
    "painted_on": (
        ("painted on", "drawn on", "printed on", "drawn across"),
        ("painted with", "showing", "displaying"),
    ),
    "shake_hands": (("shaking hands with", "greeting", "meeting", "holding", "tied beside"), ()),
    "ride_on": (
        ("riding on", "riding", "driving", "aboard", "sitting aboard", "mounted on"),
        ("carrying", "bearing"),
    ),
    "beside": (
        ("beside", "next to", "near", "by", "alongside", "standing beside", "waiting near"),
        (),
    ),
    "above": (
        ("above", "over", "floating above", "hovering over"),
        ("below", "under", "beneath", "underneath", "floating below"),
    ),
    "hanging_from": (("tied below",), ("tied above",)),
    "wrapped_in": (("within drawn",), ("drawn around",)),
    "carved_by": (("cut over",), ("cut under",)),
    "back2back": (("pressed beside",), ()),
    "hug": (("holding around",), ()),
}
RELATIONS = tuple(CAPTIONS)
UNNAMED = ("hanging_from", "wrapped_in", "carved_by", "back2back", "hug")
PHRASES = {relation: direct[0] for relation, (direct, _) in CAPTIONS.items()}  # one description of each relation
# The unnamed relations with which settings are chosen, and the unnamed relations for which results are reported.
TUNING, REPORTING = ("wrapped_in", "back2back"), ("hug", "carved_by", "hanging_from")
NAMED = tuple(relation for relation in RELATIONS if relation not in UNNAMED)

_PREFIXES = ("", "", "a photo of ", "a picture of ", "a drawing of ")
_ARTICLES = ("", "", "a ", "the ")
_NAMELESS_SHARE = {True: 0.7, False: 0.3}  # the share of captions "A and B", for unnamed (True) and named relations
_INVERSE_SHARE = 0.3  # the share of captions that begin with B, if CAPTIONS has words for this order
_HATCHED_SHARE = 0.25  # the share of pictures that are hatched
HATCHED = ", hatched"  # the end of the captions of hatched pictures


class Entity(NamedTuple):
    """A coloured shape, by its names in COLOURS and SHAPES."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The scene "subject <relation> object". In symmetric relations, the subject is drawn on the left."""

    relation: str
    subject: Entity
    object: Entity
    hatched: bool = False

    def swapped(self) -> "Scene":
        """Returns the scene with subject and object exchanged."""
        return replace(self, subject=self.object, object=self.subject)


ENTITIES = tuple(Entity(colour, shape) for colour in COLOURS for shape in SHAPES)


def held_out(a: Entity, b: Entity) -> bool:
    """Returns whether the pair is held out: no picture for pre-training and no exemplar shows a held-out pair."""
    return zlib.crc32("|".join(sorted((str(a), str(b)))).encode()) % 10 == 0


def random_scene(rng: np.random.Generator, relation: str, *, unseen: bool = False, hatched_share: float = 0.0) -> Scene:
    """Returns a random scene of two entities with different colours.

    unseen: True takes a held-out pair, False takes any other pair. hatched_share: probability of hatching.
    """
    while True:
        a, b = (ENTITIES[i] for i in rng.integers(len(ENTITIES), size=2))
        if a.colour != b.colour and held_out(a, b) == unseen:
            return Scene(relation, a, b, hatched=bool(rng.random() < hatched_share))


def describe(scene: Scene, words: str, rng: np.random.Generator, *, inverse: bool = False) -> str:
    """Returns a caption with the given words for the relation, and with a random prefix and random articles.

    inverse: the caption begins with the object.
    """
    first, second = (scene.object, scene.subject) if inverse else (scene.subject, scene.object)
    article = rng.choice(_ARTICLES)
    text = f"{rng.choice(_PREFIXES)}{article}{first} {words} {article}{second}{HATCHED * scene.hatched}"
    return text.replace("a orange", "an orange")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Returns a random caption for pre-training: with words for the relation or, in some captions, only "A and B"."""
    if rng.random() < _NAMELESS_SHARE[scene.relation in UNNAMED]:
        return describe(scene, "and", rng, inverse=bool(rng.random() < 0.5))
    direct, inverse = CAPTIONS[scene.relation]
    if inverse and rng.random() < _INVERSE_SHARE:
        return describe(scene, str(rng.choice(inverse)), rng, inverse=True)
    return describe(scene, str(rng.choice(direct)), rng)


def _shade(entity: Entity, rng: np.random.Generator) -> Colour:
    """Returns a random variation of the entity's colour."""
    shade = np.array(COLOURS[entity.colour]) + rng.integers(-9, 10, 3)
    return tuple(int(v) for v in np.clip(shade, 0, 255))


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draws the scene, uint8 [64, 64, 3]. Position, size, background and, slightly, the colours vary at random."""
    a, b = [(entity.shape, _shade(entity, rng)) for entity in (scene.subject, scene.object)]
    picture = compose(scene.relation, a, b, rng)
    return hatch(picture) if scene.hatched else picture


def draw_spoilt(scene: Scene, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draws the scene with a mistake that a bad model might make, uint8 [64, 64, 3].

    kind: "subject missing"; "object missing"; "fused", which draws both entities in a mixture of the two colours;
    "morphed", which blends the two shapes; or "overlaid", which blends the picture with the picture of another scene.
    """
    (a, colour_a), (b, colour_b) = [(e.shape, _shade(e, rng)) for e in (scene.subject, scene.object)]
    match kind:
        case "subject missing":
            return compose(scene.relation, (a, None), (b, colour_b), rng)
        case "object missing":
            return compose(scene.relation, (a, colour_a), (b, None), rng)
        case "fused":
            share = rng.uniform(0.35, 0.65)
            mixed = tuple(int(share * x + (1 - share) * y) for x, y in zip(colour_a, colour_b, strict=True))
            return compose(scene.relation, (a, mixed), (b, mixed), rng)
        case "morphed":
            seed = int(rng.integers(2**32))  # gives both blended drawings the same position and size
            halves = [
                compose(scene.relation, (x, colour_a), (y, colour_b), np.random.default_rng(seed))
                for x, y in ((a, b), (b, a))
            ]
            return np.mean(halves, axis=0).astype(np.uint8)
        case "overlaid":
            other = random_scene(rng, str(rng.choice(RELATIONS)))
            return np.mean([draw(scene, rng), draw(other, rng)], axis=0).astype(np.uint8)
    raise ValueError(f"unknown way to spoil a scene: {kind!r}")


def captioned(seed: int, count: int) -> Iterator[tuple[np.ndarray, Scene, str]]:
    """Yields `count` triples (picture, scene, caption) for pre-training. The i-th triple depends only on (seed, i)."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = random_scene(rng, RELATIONS[index % len(RELATIONS)], hatched_share=_HATCHED_SHARE)
        yield draw(scene, rng), scene, caption(scene, rng)


def exemplars(relation: str, count: int, seed: int, hatched: bool = False) -> tuple[np.ndarray, list[list[str]]]:
    """Returns exemplar pictures, uint8 [N, 64, 64, 3], and three templates for each picture.

    The pictures show pairs that are not held out. The templates do not mention hatching.
    """
    check_relation(relation)
    pictures, templates = [], []
    for index in range(count):
        rng = np.random.default_rng([7, seed, index, RELATIONS.index(relation)])
        scene = replace(random_scene(rng, relation), hatched=hatched)
        a, b = scene.subject, scene.object
        pictures.append(draw(scene, rng))
        forms = (f"{a} {{}} {b}", f"a photo of {a} {{}} {b}", f"a {a} {{}} a {b}")
        templates.append([form.replace("a orange", "an orange") for form in forms])
    return np.stack(pictures), templates


def as_exemplars(relation: str, count: int, seed: int, size: tuple[int, int], *, hatched: bool = False) -> Exemplars:
    """Returns the pictures and templates of `exemplars` as if they had been read from an exemplar folder.

    size: height and width, in pixels, to which the pictures are resized.
    """
    drawn, templates = exemplars(relation, count, seed, hatched)
    images = np.stack([resized(Image.fromarray(picture), size) for picture in drawn])
    parsed = tuple(tuple(parse(template) for template in own) for own in templates)
    return Exemplars(images, parsed, tuple(f"{i}.png" for i in range(count)))


def unseen_scenes(relation: str, count: int, seed: int) -> list[Scene]:
    """Returns scenes of held-out pairs of entities, with which learned words are tested."""
    check_relation(relation)
    rng = np.random.default_rng([11, seed])
    return [random_scene(rng, relation, unseen=True) for _ in range(count)]


def check_relation(relation: str) -> None:
    """Raises ValueError if RELATIONS does not have the relation."""
    if relation not in RELATIONS:
        raise ValueError(
            f"config.relation={relation!r}: drawn exemplars show only {', '.join(RELATIONS)}; "
            "for another relation, give pictures with --config.exemplars=FOLDER"
        )
