"""Trains the miniature's judge, a classifier of drawn scenes.

    python -m recipes.judge --snapshot runs/pretrain/snapshot

This takes a quarter of an hour on two CPU cores. A third of the scenes are drawn with mistakes on purpose, and a third
are hatched with random strength. A sixth of the scenes are used twice: as drawn, and as the miniature's VAE
reconstructs them.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from tqdm import tqdm

from reversion_jax.miniature import judge, scenes
from reversion_jax.miniature.drawing import SIZE_PX, hatch
from reversion_jax.models.vae import VAE
from reversion_jax.runtime.errors import one_line
from reversion_jax.training.fit import gradient_step
from reversion_jax.weights import folder

_UNKNOWN = -1  # the label of a property that the picture does not show; it adds nothing to the loss


def _spoilt_labels(scene: scenes.Scene, kind: str) -> list[int]:
    """Returns the labels of a scene that `scenes.draw_spoilt` drew with the mistake `kind`."""
    relation, ca, sa, cb, sb = judge.labels(scene)
    match kind:
        case "subject missing" | "object missing":
            # A single entity shows no relation, and the picture does not tell whether it is the subject or the object.
            return [judge.UNCLEAR, _UNKNOWN, _UNKNOWN, judge.ABSENT, judge.ABSENT]
        case "fused":
            return [relation, judge.ABSENT, sa, judge.ABSENT, sb]
        case "morphed":
            same = sa == sb  # two equal shapes blend into the same shape
            return [relation, ca, sa if same else judge.ABSENT, cb, sb if same else judge.ABSENT]
        case "overlaid":
            return [judge.UNCLEAR, judge.ABSENT, _UNKNOWN, judge.ABSENT, _UNKNOWN]
    raise ValueError(kind)


SPOILINGS = ("subject missing", "object missing", "fused", "morphed", "overlaid")


def examples(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws training pictures, uint8 [N, 64, 64, 3], and their labels [N, 5].

    A third of the pictures show a mistake, and a third are hatched.
    """
    pictures, labels = [], []
    for index in tqdm(range(count), "judge's scenes", mininterval=1):
        rng = np.random.default_rng([seed, index])
        unseen = bool(rng.random() < 0.1)
        scene = scenes.random_scene(rng, scenes.RELATIONS[index % len(scenes.RELATIONS)], unseen=unseen)
        if rng.random() < 2 / 3:
            pictures.append(scenes.draw(scene, rng))
            labels.append(judge.labels(scene))
        else:
            kind = str(rng.choice(SPOILINGS))
            pictures.append(scenes.draw_spoilt(scene, kind, rng))
            labels.append(_spoilt_labels(scene, kind))
        if rng.random() < 1 / 3:
            pictures[-1] = hatch(pictures[-1], strength=rng.uniform(0.2, 1.2))
    return np.stack(pictures), np.array(labels)


def render(model: folder.StableDiffusion, pictures: np.ndarray) -> np.ndarray:
    """Returns the reconstructions of pictures, uint8 [N, 64, 64, 3], by the model's VAE."""
    vae = VAE(model.config.vae)
    decode = jax.jit(lambda p, x: jnp.clip(nn.apply(VAE.__call__, vae)({"params": p}, x), -1, 1))
    chunks = np.array_split(pictures, max(len(pictures) // 64, 1))
    rendered = [decode(model.params["vae"], c / 127.5 - 1) for c in tqdm(chunks, "rendered", mininterval=1)]
    return np.round((np.concatenate(rendered) + 1) * 127.5).astype(np.uint8)


def train(model: folder.StableDiffusion, count: int = 60_000, epochs: int = 6, batch: int = 64) -> Any:
    """Trains a judge on drawn scenes, and on the VAE's reconstructions of a sixth of these scenes; returns its weights.

    model: the model whose VAE is used. count: number of drawn scenes. batch: number of pictures per step.
    """
    pictures, labels = examples(1, count)
    pictures = np.concatenate([pictures, render(model, pictures[: count // 6])])
    labels = np.concatenate([labels, labels[: count // 6]])
    steps = epochs * len(labels) // batch
    optimiser = optax.adamw(optax.cosine_onecycle_schedule(steps, 2e-3), weight_decay=1e-3)

    def loss_fn(
        params: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        images = images + 0.04 * jax.random.normal(key, images.shape)
        known = labels != _UNKNOWN
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels[:, i], 0)) * known[:, i]
            for i, logits in enumerate(judge.Net().apply(params, images)[0])
        ]
        total = sum((jnp.mean(loss) for loss in losses), jnp.zeros(()))
        return total, {"loss": total}

    params = judge.Net().init(jax.random.key(0), jnp.zeros((1, SIZE_PX, SIZE_PX, 3)))
    state, step_fn = (params, optimiser.init(params)), gradient_step(loss_fn, optimiser)
    rng = np.random.default_rng(0)
    with tqdm(range(steps), "judge", mininterval=1) as bar:
        for step in bar:
            chosen = rng.integers(len(labels), size=batch)
            images = pictures[chosen].astype(np.float32) / 127.5 - 1
            key = jax.random.fold_in(jax.random.key(1), step)
            state, metrics = step_fn(state, (images, labels[chosen], key))
            if step % 100 == 0:
                bar.set_postfix(loss=f"{float(metrics['loss']):.4f}")
    return state[0]


def save(path: Path, params: Any) -> None:
    """Writes a judge's weights in half precision."""
    flat = {name: np.asarray(value, np.float16) for name, value in flatten_dict(params, sep="/").items()}
    save_file(flat, path)


@one_line
def main(argv: list[str]) -> None:
    del argv
    save(Path(_OUT.value), train(folder.load(_SNAPSHOT.value)))


if __name__ == "__main__":
    from absl import app, flags

    _SNAPSHOT = flags.DEFINE_string("snapshot", None, "The miniature's folder, in diffusers' layout.", required=True)
    _OUT = flags.DEFINE_string("out", str(judge.WEIGHTS), "The file to write the judge's weights to.")
    app.run(main)
