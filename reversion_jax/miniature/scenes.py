"""Draws the miniature's world: two coloured shapes in one of twelve relations, with captions.

Ten relations carry the names of the ReVersion Benchmark, two (`beside`, `above`) are plain. Five have no word of
their own (UNNAMED): a third of their captions describe them by basis words that other relations use too, the rest
say only "A and B". One entity pair in ten is held out of every caption and exemplar that a model is trained on. A
quarter of the pictures are hatched, which their captions say: a style, for exemplars to have and for a word to leak.
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

# What "A <relation> B" may be called: first A's words for it, then B's ("B <words> A").
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
PHRASES = {relation: direct[0] for relation, (direct, _) in CAPTIONS.items()}  # one that describes each
TUNING, REPORTING = ("wrapped_in", "back2back"), ("hug", "carved_by", "hanging_from")
NAMED = tuple(relation for relation in RELATIONS if relation not in UNNAMED)

_PREFIXES = ("", "", "a photo of ", "a picture of ", "a drawing of ")
_ARTICLES = ("", "", "a ", "the ")
_NAMELESS_SHARE = {True: 0.7, False: 0.3}  # captions "A and B", of unnamed and of named relations
_INVERSE_SHARE = 0.3  # captions that start from B, where the relation has such words
_HATCHED_SHARE = 0.25
HATCHED = ", hatched"  # how a caption ends that says so


class Entity(NamedTuple):
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """`subject` <relation> `object`. Symmetric relations are drawn with the subject on the left."""

    relation: str
    subject: Entity
    object: Entity
    hatched: bool = False

    def swapped(self) -> "Scene":
        return replace(self, subject=self.object, object=self.subject)


ENTITIES = tuple(Entity(colour, shape) for colour in COLOURS for shape in SHAPES)


def held_out(a: Entity, b: Entity) -> bool:
    """Whether the pair belongs to the tenth that no pre-training picture and no exemplar shows."""
    return zlib.crc32("|".join(sorted((str(a), str(b)))).encode()) % 10 == 0


def random_scene(rng: np.random.Generator, relation: str, *, unseen: bool = False, hatched_share: float = 0.0) -> Scene:
    """A scene of two entities of different colour, from the held-out pairs (`unseen`) or from the others."""
    while True:
        a, b = (ENTITIES[i] for i in rng.integers(len(ENTITIES), size=2))
        if a.colour != b.colour and held_out(a, b) == unseen:
            return Scene(relation, a, b, hatched=bool(rng.random() < hatched_share))


def describe(scene: Scene, words: str, rng: np.random.Generator, *, inverse: bool = False) -> str:
    """A caption with the given words for the relation, a random prefix and articles."""
    first, second = (scene.object, scene.subject) if inverse else (scene.subject, scene.object)
    article = rng.choice(_ARTICLES)
    text = f"{rng.choice(_PREFIXES)}{article}{first} {words} {article}{second}{HATCHED * scene.hatched}"
    return text.replace("a orange", "an orange")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as pre-training sees it: the relation's words, a description by basis words, or only "A and B"."""
    if rng.random() < _NAMELESS_SHARE[scene.relation in UNNAMED]:
        return describe(scene, "and", rng, inverse=bool(rng.random() < 0.5))
    direct, inverse = CAPTIONS[scene.relation]
    if inverse and rng.random() < _INVERSE_SHARE:
        return describe(scene, str(rng.choice(inverse)), rng, inverse=True)
    return describe(scene, str(rng.choice(direct)), rng)


def _shade(entity: Entity, rng: np.random.Generator) -> Colour:
    shade = np.array(COLOURS[entity.colour]) + rng.integers(-9, 10, 3)
    return tuple(int(v) for v in np.clip(shade, 0, 255))


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene as uint8 [64, 64, 3], varied in place, size, background and slightly in colour."""
    a, b = [(entity.shape, _shade(entity, rng)) for entity in (scene.subject, scene.object)]
    picture = compose(scene.relation, a, b, rng)
    return hatch(picture) if scene.hatched else picture


def draw_spoilt(scene: Scene, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The scene as a bad generator might draw it: uint8 [64, 64, 3].

    Kinds: "subject missing" and "object missing"; "fused" (both entities in a mixture of the two colours);
    "morphed" (the shapes blended into one another); "overlaid" (half another scene).
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
            seed = int(rng.integers(2**32))  # the same place and size for both halves
            halves = [
                compose(scene.relation, (x, colour_a), (y, colour_b), np.random.default_rng(seed))
                for x, y in ((a, b), (b, a))
            ]
            return np.mean(halves, axis=0).astype(np.uint8)
        case "overlaid":
            other = random_scene(rng, str(rng.choice(RELATIONS)))
            return np.mean([draw(scene, rng), draw(other, rng)], axis=0).astype(np.uint8)
    raise ValueError(f"no such way to spoil a scene: {kind!r}")


def captioned(seed: int, count: int) -> Iterator[tuple[np.ndarray, Scene, str]]:
    """`count` pre-training triples (picture, scene, caption); the i-th depends on (seed, i) alone."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        scene = random_scene(rng, RELATIONS[index % len(RELATIONS)], hatched_share=_HATCHED_SHARE)
        yield draw(scene, rng), scene, caption(scene, rng)


def exemplars(relation: str, count: int, seed: int, hatched: bool = False) -> tuple[np.ndarray, list[list[str]]]:
    """Exemplar pictures uint8 [N, 64, 64, 3] of seen pairs, and three templates for each, which say of no hatching."""
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
    """`exemplars` as an exemplar folder of them would be read."""
    drawn, templates = exemplars(relation, count, seed, hatched)
    images = np.stack([resized(Image.fromarray(picture), size) for picture in drawn])
    parsed = tuple(tuple(parse(template) for template in own) for own in templates)
    return Exemplars(images, parsed, tuple(f"{i}.png" for i in range(count)))


def unseen_scenes(relation: str, count: int, seed: int) -> list[Scene]:
    """Scenes of entity pairs that no pre-training picture and no exemplar shows, for testing what was learned."""
    check_relation(relation)
    rng = np.random.default_rng([11, seed])
    return [random_scene(rng, relation, unseen=True) for _ in range(count)]


def check_relation(relation: str) -> None:
    """ValueError unless the miniature's world has the relation."""
    if relation not in RELATIONS:
        raise ValueError(
            f"config.relation={relation!r}: drawn exemplars show {', '.join(RELATIONS)}; "
            "for another, give pictures with --config.exemplars=FOLDER"
        )
