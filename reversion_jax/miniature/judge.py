"""Says what a miniature picture shows: the relation, or "unclear", and which two entities, if they are unmixed.

    python -m reversion_jax.miniature.judge --snapshot runs/pretrain/snapshot

trains it in a quarter of an hour on two CPU cores: a small convolutional classifier of drawn scenes, good ones and
scenes spoilt on purpose, a third of them more or less hatched, and a sixth of them again as the VAE renders them.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from reversion_jax.miniature import scenes
from reversion_jax.miniature.drawing import SIZE_PX, hatch, hatching
from reversion_jax.models.vae import VAE
from reversion_jax.runtime.errors import one_line
from reversion_jax.weights import folder

WEIGHTS = Path(__file__).parent / "judge.safetensors"
UNCLEAR = len(scenes.RELATIONS)  # the class after the last relation
ABSENT = 8  # the class after the last colour or shape: not there, or mixed with something else
_CLASSES = (len(scenes.RELATIONS) + 1, *((len(scenes.COLOURS) + 1, len(scenes.SHAPES) + 1) * 2))
_UNKNOWN = -1  # a label that the picture does not settle


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


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Pictures [N, 64, 64, 3] -> logits [N, classes] of each attribute, and what they are read from, [N, 320]."""
        x = nn.relu(nn.Conv(32, (5, 5), strides=2)(x))
        for width in (64, 96):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
            x = nn.relu(nn.Conv(width, (3, 3))(x))
        x = nn.relu(nn.Dense(320)(x.reshape(x.shape[0], -1)))
        return jnp.split(nn.Dense(sum(_CLASSES))(x), np.cumsum(_CLASSES)[:-1], axis=-1), x


@jax.jit
def _classify(params: Any, images: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    logits, features = _Net().apply(params, images)
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
    params = _shipped() if params is None else params
    padding = -len(images) % 64  # whole batches, so that one program serves every count
    padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
    return [_classify(params, padded[i : i + 64]) for i in range(0, len(padded), 64)]


def _entity_labels(entity: scenes.Entity) -> list[int]:
    return [list(scenes.COLOURS).index(entity.colour), list(scenes.SHAPES).index(entity.shape)]


def _labels(scene: scenes.Scene) -> list[int]:
    return [
        scenes.RELATIONS.index(scene.relation),
        *_entity_labels(scene.subject),
        *_entity_labels(scene.object),
    ]


def right(verdict: Verdict, asked: Sequence[scenes.Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Whether the relation is the one asked for, and whether both entities are: two bool [N].

    Who is who counts where a directed relation is shown as asked; otherwise both entities must merely be there.
    """
    want = np.array([_labels(scene) for scene in asked])
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
    want = np.array([_labels(scene) for scene in asked])[:, 1:]
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


def _spoilt_labels(scene: scenes.Scene, kind: str) -> list[int]:
    relation, ca, sa, cb, sb = _labels(scene)
    match kind:
        case "subject missing" | "object missing":
            # One entity left: no relation, and nobody can say which part it plays.
            return [UNCLEAR, _UNKNOWN, _UNKNOWN, ABSENT, ABSENT]
        case "fused":
            return [relation, ABSENT, sa, ABSENT, sb]
        case "morphed":
            same = sa == sb  # shapes that are equal blend into themselves
            return [relation, ca, sa if same else ABSENT, cb, sb if same else ABSENT]
        case "overlaid":
            return [UNCLEAR, ABSENT, _UNKNOWN, ABSENT, _UNKNOWN]
    raise ValueError(kind)


SPOILINGS = ("subject missing", "object missing", "fused", "morphed", "overlaid")


def examples(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Training pictures uint8 [N, 64, 64, 3] and labels [N, 5]; a third are spoilt, and a third of all are hatched."""
    pictures, labels = [], []
    for index in tqdm(range(count), "judge's scenes", mininterval=1):
        rng = np.random.default_rng([seed, index])
        unseen = bool(rng.random() < 0.1)
        scene = scenes.random_scene(rng, scenes.RELATIONS[index % len(scenes.RELATIONS)], unseen=unseen)
        if rng.random() < 2 / 3:
            pictures.append(scenes.draw(scene, rng))
            labels.append(_labels(scene))
        else:
            kind = str(rng.choice(SPOILINGS))
            pictures.append(scenes.draw_spoilt(scene, kind, rng))
            labels.append(_spoilt_labels(scene, kind))
        if rng.random() < 1 / 3:
            pictures[-1] = hatch(pictures[-1], strength=rng.uniform(0.2, 1.2))
    return np.stack(pictures), np.array(labels)


def render(model: folder.StableDiffusion, pictures: np.ndarray) -> np.ndarray:
    """Pictures as the model's VAE draws them, uint8."""
    vae = VAE(model.config.vae)
    decode = jax.jit(lambda p, x: jnp.clip(vae.apply({"params": p}, x), -1, 1))
    chunks = np.array_split(pictures, max(len(pictures) // 64, 1))
    rendered = [decode(model.params["vae"], c / 127.5 - 1) for c in tqdm(chunks, "rendered", mininterval=1)]
    return np.round((np.concatenate(rendered) + 1) * 127.5).astype(np.uint8)


def train(model: folder.StableDiffusion, count: int = 60_000, epochs: int = 6, batch: int = 64) -> Any:
    """Trains a judge on drawn scenes, and a sixth of them again as `model`'s VAE renders them; returns its weights."""
    pictures, labels = examples(1, count)
    pictures = np.concatenate([pictures, render(model, pictures[: count // 6])])
    labels = np.concatenate([labels, labels[: count // 6]])
    steps = epochs * len(labels) // batch
    optimiser = optax.adamw(optax.cosine_onecycle_schedule(steps, 2e-3), weight_decay=1e-3)

    def loss_fn(params, images, labels, key):
        images = images + 0.04 * jax.random.normal(key, images.shape)
        known = labels != _UNKNOWN
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels[:, i], 0)) * known[:, i]
            for i, logits in enumerate(_Net().apply(params, images)[0])
        ]
        return sum(jnp.mean(loss) for loss in losses)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step_fn(params, moments, images, labels, key):
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels, key)
        updates, moments = optimiser.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    params = _Net().init(jax.random.key(0), jnp.zeros((1, SIZE_PX, SIZE_PX, 3)))
    moments = optimiser.init(params)
    rng = np.random.default_rng(0)
    with tqdm(range(steps), "judge", mininterval=1) as bar:
        for step in bar:
            chosen = rng.integers(len(labels), size=batch)
            images = pictures[chosen].astype(np.float32) / 127.5 - 1
            key = jax.random.fold_in(jax.random.key(1), step)
            params, moments, loss = step_fn(params, moments, images, labels[chosen], key)
            if step % 100 == 0:
                bar.set_postfix(loss=f"{float(loss):.4f}")
    return params


def save(path: Path, params: Any) -> None:
    """Writes a judge's weights, half precision."""
    flat = {name: np.asarray(value, np.float16) for name, value in flatten_dict(params, sep="/").items()}
    save_file(flat, path)


@one_line
def main(argv) -> None:
    del argv
    save(Path(_OUT.value), train(folder.load(_SNAPSHOT.value)))


if __name__ == "__main__":
    from absl import app, flags

    _SNAPSHOT = flags.DEFINE_string("snapshot", None, "Diffusers folder of the miniature.", required=True)
    _OUT = flags.DEFINE_string("out", str(WEIGHTS), "Where the weights go.")
    app.run(main)
