"""Says what a miniature picture shows: the relation, or "unclear", and which two entities, if they are unmixed.

It is a small convolutional classifier of drawn scenes; recipes/judge.py trained it.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from reversion_jax.miniature import scenes
from reversion_jax.miniature.drawing import hatching

WEIGHTS = Path(__file__).parent / "judge.safetensors"
UNCLEAR = len(scenes.RELATIONS)  # the class after the last relation
ABSENT = 8  # the class after the last colour or shape: not there, or mixed with something else
CLASSES = (len(scenes.RELATIONS) + 1, *((len(scenes.COLOURS) + 1, len(scenes.SHAPES) + 1) * 2))


class Verdict(NamedTuple):
    """What the judge sees; class numbers, int [N] each. Symmetric relations have their left entity as subject."""

    relation: np.ndarray
    subject_colour: np.ndarray
    subject_shape: np.ndarray
    object_colour: np.ndarray
    object_shape: np.ndarray

    def names(self) -> list[str]:
        """One line per picture, for captions under it."""
        relations = [*scenes.RELATIONS, "unclear"]
        colours, shapes = [*scenes.COLOURS, "?"], [*scenes.SHAPES, "?"]
        return [
            f"{colours[ca]} {shapes[sa]} {relations[r]} {colours[cb]} {shapes[sb]}"
            for r, ca, sa, cb, sb in zip(*self, strict=True)
        ]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Pictures [N, 64, 64, 3] -> logits [N, classes] of each attribute, and what they are read from, [N, 320]."""
        x = nn.relu(nn.Conv(32, (5, 5), strides=2)(x))
        for width in (64, 96):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
            x = nn.relu(nn.Conv(width, (3, 3))(x))
        x = nn.relu(nn.Dense(320)(x.reshape(x.shape[0], -1)))
        return jnp.split(nn.Dense(sum(CLASSES))(x), np.cumsum(CLASSES)[:-1], axis=-1), x


@jax.jit
def _classify(params: Any, images: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Images [N, 64, 64, 3] -> each attribute's class [N], and features [N, 320]."""
    logits, features = nn.apply(Net.__call__, Net())(params, images)
    return [jnp.argmax(each, axis=-1) for each in logits], features


@functools.cache
def _shipped() -> Any:
    flat = load_file(WEIGHTS)
    return unflatten_dict({name: jnp.asarray(value, jnp.float32) for name, value in flat.items()}, sep="/")


def look(images: np.ndarray, params: Any = None) -> Verdict:
    """Judges images, float [N, 64, 64, 3] in [-1, 1], with the weights that come with the package by default."""
    batches = _in_batches(images, params)
    return Verdict(
        *(np.concatenate(column)[: len(images)] for column in zip(*(seen for seen, _ in batches), strict=True))
    )


def features(images: np.ndarray, params: Any = None) -> np.ndarray:
    """What the judge reads its verdicts from, [N, 320]: `scores` compares pictures by it as by a CLIP's vectors."""
    return np.concatenate([features for _, features in _in_batches(images, params)])[: len(images)]


def _in_batches(images: np.ndarray, params: Any) -> list[tuple[list[jax.Array], jax.Array]]:
    """`_classify` of images [N, 64, 64, 3], 64 at a time; the last batch is filled up with black ones."""
    params = _shipped() if params is None else params
    padding = -len(images) % 64  # whole batches, so that one program serves every count
    padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
    return [_classify(params, padded[i : i + 64]) for i in range(0, len(padded), 64)]


def _entity_labels(entity: scenes.Entity) -> list[int]:
    return [list(scenes.COLOURS).index(entity.colour), list(scenes.SHAPES).index(entity.shape)]


def labels(scene: scenes.Scene) -> list[int]:
    return [
        scenes.RELATIONS.index(scene.relation),
        *_entity_labels(scene.subject),
        *_entity_labels(scene.object),
    ]


def right(verdict: Verdict, asked: Sequence[scenes.Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Whether the relation is the one asked for, and whether both entities are: two bool [N].

    Who is who counts where a directed relation is shown as asked; otherwise both entities must merely be there.
    """
    want = np.array([labels(scene) for scene in asked])
    seen = np.stack(verdict, axis=-1)
    relation = seen[:, 0] == want[:, 0]
    straight = np.all(seen[:, 1:] == want[:, 1:], axis=-1)
    crossed = np.all(seen[:, 1:] == want[:, [3, 4, 1, 2]], axis=-1)
    directed = np.array([scene.relation not in scenes.SYMMETRIC for scene in asked])
    return relation, straight | (crossed & ~(directed & relation))


def fused(verdict: Verdict, asked: Sequence[scenes.Scene]) -> np.ndarray:
    """Whether an entity wears what belongs to the other: bool [N].

    Its colour or its shape is a mixture, or it has the one's colour and the other's shape, or both have the same of the
    two colours asked for. Where an entity is missing, or is merely another, nothing is fused.
    """
    want = np.array([labels(scene) for scene in asked])[:, 1:]
    seen = np.stack(verdict, axis=-1)[:, 1:]
    no_colour, no_shape = seen[:, ::2] == ABSENT, seen[:, 1::2] == ABSENT
    missing = np.any(no_colour & no_shape, axis=-1)
    mixed = np.any(no_colour | no_shape, axis=-1)
    crossed = [np.all(seen[:, at : at + 2] == want[:, parts], axis=-1) for at in (0, 2) for parts in ([0, 3], [2, 1])]
    alike = (seen[:, 0] == seen[:, 2]) & ((seen[:, 0] == want[:, 0]) | (seen[:, 0] == want[:, 2]))
    of_different_shapes = want[:, 1] != want[:, 3]
    return ~missing & (mixed | (np.any(crossed, axis=0) & of_different_shapes) | alike)


def leaked(images: np.ndarray) -> np.ndarray:
    """Whether images, float [N, 64, 64, 3] in [-1, 1], are hatched by half of what hatched exemplars are: bool [N]."""
    return hatching(images) > 0.5
