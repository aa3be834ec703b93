"""The judge: says which relation (or "unclear") and which two entities a picture by the miniature model shows.

The judge is a small convolutional classifier of drawn scenes, which recipes/judge.py trained.
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
UNCLEAR = len(scenes.RELATIONS)  # the class after the last relation: no relation can be recognised
ABSENT = 8  # the class after the last colour or shape: the entity is missing, or mixed with something else
# The number of classes of each attribute, in the order of Verdict.
CLASSES = (len(scenes.RELATIONS) + 1, *((len(scenes.COLOURS) + 1, len(scenes.SHAPES) + 1) * 2))


class Verdict(NamedTuple):
    """What the judge sees in N pictures, as class numbers, int [N] each.

    In symmetric relations, the subject is the entity on the left.
    """

    relation: np.ndarray
    subject_colour: np.ndarray
    subject_shape: np.ndarray
    object_colour: np.ndarray
    object_shape: np.ndarray

    def names(self) -> list[str]:
        """Returns a line for each picture, to show as its caption."""
        relations = [*scenes.RELATIONS, "unclear"]
        colours, shapes = [*scenes.COLOURS, "?"], [*scenes.SHAPES, "?"]
        return [
            f"{colours[ca]} {shapes[sa]} {relations[r]} {colours[cb]} {shapes[sb]}"
            for r, ca, sa, cb, sb in zip(*self, strict=True)
        ]


class Net(nn.Module):
    """The judge's network."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Maps pictures [N, 64, 64, 3] to each attribute's logits [N, classes], and to features [N, 320]."""
        x = nn.relu(nn.Conv(32, (5, 5), strides=2)(x))
        for width in (64, 96):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
            x = nn.relu(nn.Conv(width, (3, 3))(x))
        x = nn.relu(nn.Dense(320)(x.reshape(x.shape[0], -1)))
        return jnp.split(nn.Dense(sum(CLASSES))(x), np.cumsum(CLASSES)[:-1], axis=-1), x


@jax.jit
def _classify(params: Any, images: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Maps images [N, 64, 64, 3] to each attribute's class [N], and to features [N, 320]."""
    logits, features = nn.apply(Net.__call__, Net())(params, images)
    return [jnp.argmax(each, axis=-1) for each in logits], features


@functools.cache
def _shipped() -> Any:
    """The weights that come with the package, in float32."""
    flat = load_file(WEIGHTS)
    return unflatten_dict({name: jnp.asarray(value, jnp.float32) for name, value in flat.items()}, sep="/")


def look(images: np.ndarray, params: Any = None) -> Verdict:
    """Judges images, float [N, 64, 64, 3] in [-1, 1]. params: by default the weights that come with the package."""
    batches = _in_batches(images, params)
    return Verdict(
        *(np.concatenate(column)[: len(images)] for column in zip(*(seen for seen, _ in batches), strict=True))
    )


def features(images: np.ndarray, params: Any = None) -> np.ndarray:
    """Returns the features [N, 320] from which the judge computes its verdicts.

    evaluation/scores.py compares pictures by these features in the same way as by CLIP's vectors.
    """
    return np.concatenate([features for _, features in _in_batches(images, params)])[: len(images)]


def _in_batches(images: np.ndarray, params: Any) -> list[tuple[list[jax.Array], jax.Array]]:
    """Classifies images [N, 64, 64, 3], 64 at a time. The last batch is filled up with black images."""
    params = _shipped() if params is None else params
    padding = -len(images) % 64  # all batches have the same size, so one compiled program serves any number of images
    padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
    return [_classify(params, padded[i : i + 64]) for i in range(0, len(padded), 64)]


def _entity_labels(entity: scenes.Entity) -> list[int]:
    return [list(scenes.COLOURS).index(entity.colour), list(scenes.SHAPES).index(entity.shape)]


def labels(scene: scenes.Scene) -> list[int]:
    """Returns a scene's class numbers, in the order of Verdict."""
    return [
        scenes.RELATIONS.index(scene.relation),
        *_entity_labels(scene.subject),
        *_entity_labels(scene.object),
    ]


def right(verdict: Verdict, asked: Sequence[scenes.Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Compares verdicts with the scenes that were asked for.

    Returns two arrays, bool [N]: whether the relation is right, and whether the entities are right. If the relation is
    right and has a direction, subject and object must not be swapped. If the relation is wrong or symmetric, it is
    enough that the picture shows both entities.
    """
    want = np.array([labels(scene) for scene in asked])
    seen = np.stack(verdict, axis=-1)
    relation = seen[:, 0] == want[:, 0]
    straight = np.all(seen[:, 1:] == want[:, 1:], axis=-1)
    crossed = np.all(seen[:, 1:] == want[:, [3, 4, 1, 2]], axis=-1)
    directed = np.array([scene.relation not in scenes.SYMMETRIC for scene in asked])
    return relation, straight | (crossed & ~(directed & relation))


def fused(verdict: Verdict, asked: Sequence[scenes.Scene]) -> np.ndarray:
    """Returns for each picture whether its entities are fused, bool [N].

    Entities are fused if a colour or a shape is a mixture. Entities are also fused if one entity has the colour of one
    wanted entity and the shape of the other wanted entity, or if both entities have the same wanted colour. The
    entities are not fused if one entity is missing, or is unrelated to the wanted entities.
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
    """Returns whether images, float [N, 64, 64, 3] in [-1, 1], are hatched: bool [N].

    The limit is half the strength of the lines in hatched exemplars.
    """
    return hatching(images) > 0.5
