"""Measures how well CLIP scores agree with the judge (a classifier), on pictures of the miniature model.

    python benchmarks/clip_on_miniature.py --evaluation runs/evaluation --out runs/clip

No published CLIP was trained on pictures like those of the miniature model. So this script trains a small CLIP on
captioned scenes like those that the miniature model was trained on, with CLIP's contrastive loss (arXiv 2103.00020).
Then the script measures which mistakes each score notices, first on drawn scenes that are spoilt in a known way.
Second, the script compares each score with the judge's verdicts on the pictures of an evaluation. The script takes a
quarter of an hour on two CPU cores, nearly all of it for training, which can be resumed. The script writes table.md.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from reversion_jax.evaluation import clip_features, scores
from reversion_jax.evaluation.user_study import sets
from reversion_jax.inversion.prompts import RelationPrompt
from reversion_jax.miniature import judge, scenes
from reversion_jax.miniature.drawing import COLOURS, SHAPES, SIZE_PX
from reversion_jax.miniature.scenes import Scene
from reversion_jax.models.clip_vision import CLIP, CLIPConfig, CLIPVisionConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.training.fit import check_recipe, fit, gradient_step, one_cycle
from reversion_jax.weights.folder import load_config
from reversion_jax.weights.resolve import MINIATURE_FOLDER

CONFIG = CLIPConfig(
    text=replace(load_config(MINIATURE_FOLDER).text, num_hidden_layers=2, max_position_embeddings=16),
    vision=CLIPVisionConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=SIZE_PX,
        patch_size=8,
    ),
    projection_dim=64,
)
PREPROCESSING = clip_features.Preprocessing(SIZE_PX, SIZE_PX)
SCORES = ("entity_score", "entity_minimum", "relation_margin", "order_margin")
_EVALUATION = flags.DEFINE_string(
    "evaluation", "runs/evaluation", "Folder of an evaluation, whose pictures are scored."
)
_OUT = flags.DEFINE_string("out", "runs/clip", "Folder for the table and the checkpoints of training.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Number of training steps.")
_BATCH = flags.DEFINE_integer("batch", 128, "Pairs of picture and caption per training step.")
_SPOILT = flags.DEFINE_integer("spoilt", 50, "Number of scenes to spoil, for each relation.")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Returns a caption with words for the relation, or, in a quarter of the cases, with one entity only."""
    if rng.random() < 0.25:
        return f"a photo of {rng.choice([str(scene.subject), str(scene.object)])}"
    return scenes.describe(scene, str(rng.choice(scenes.CAPTIONS[scene.relation][0])), rng)


def train(tokenizer: Tokenizer, workdir: Path) -> clip_features.Clip:
    """Trains a CLIP on drawn scenes, without the pairs of entities that are held out for tests."""
    recipe = {"steps": _STEPS.value, "batch": _BATCH.value}
    check_recipe(workdir, recipe)
    model, optimiser = CLIP(CONFIG), optax.adamw(one_cycle(recipe["steps"], 1e-3), b2=0.98, weight_decay=0.1)

    def loss_fn(params, ids, pixels):
        texts, images = (scores.unit(x) for x in model.apply({"params": params}, ids, pixels))
        logits = jnp.minimum(jnp.exp(params["logit_scale"]), 100.0) * images @ texts.T
        same = jnp.arange(len(logits))
        losses = [optax.softmax_cross_entropy_with_integer_labels(x, same) for x in (logits, logits.T)]
        return jnp.mean(jnp.stack(losses)), {"right": jnp.mean(jnp.argmax(logits, axis=1) == same)}

    def batch_fn(step):
        rng = np.random.default_rng([78, step])
        relations = rng.choice(scenes.RELATIONS, size=recipe["batch"])
        shown = [scenes.random_scene(rng, str(relation), hatched_share=0.25) for relation in relations]
        pixels = np.stack([PREPROCESSING(Image.fromarray(scenes.draw(scene, rng))) for scene in shown])
        noise = rng.normal(scale=0.1, size=pixels.shape).astype(np.float32)  # imitates the noise of generated pictures
        return tokenizer([caption(scene, rng) for scene in shown]), pixels + noise

    params = model.init(jax.random.key(0), *(x[:1] for x in batch_fn(0)))["params"]
    state = params, optimiser.init(params)
    step_fn = gradient_step(loss_fn, optimiser)
    params, _ = fit("clip", state, step_fn, batch_fn, recipe["steps"], workdir, checkpoints=4)
    return clip_features.Clip(CONFIG, params, tokenizer, PREPROCESSING)


def score(clip: clip_features.Clip, images: np.ndarray, asked: list[Scene]) -> dict[str, np.ndarray]:
    """Returns every score [N] of the pictures, uint8 [N, 64, 64, 3], by the score's name."""

    def texts_for(scene: Scene) -> list[str]:
        others = [words for relation, words in scenes.PHRASES.items() if relation != scene.relation]
        prompt = RelationPrompt("{subject} {} {object}", str(scene.subject), str(scene.object))
        return scores.sentences(prompt, scenes.PHRASES[scene.relation], others)

    features = clip_features.of_pictures(clip, [Image.fromarray(image) for image in images], 64, "scored")
    texts = clip_features.of_sentences(clip, [texts_for(scene) for scene in asked])
    return {name: np.asarray(values) for name, values in scores.of_pictures(features, texts).items()}


def _other(rng: np.random.Generator, names: list[str], than: set[str]) -> str:
    return str(rng.choice([name for name in names if name not in than]))


def _another(scene: Scene, part: str, rng: np.random.Generator) -> Scene:
    """Returns the scene with a different colour or shape (`part`) of its object."""
    names = {"colour": list(COLOURS), "shape": list(SHAPES)}[part]
    given = {getattr(scene.subject, part), getattr(scene.object, part)}
    return replace(scene, object=scene.object._replace(**{part: _other(rng, names, given)}))


Draw = Callable[[Scene, np.random.Generator], np.ndarray]
SPOILINGS: dict[str, Draw] = {
    "the object is missing": lambda s, rng: scenes.draw_spoilt(s, "object missing", rng),
    "both have a mixture of the colours": lambda s, rng: scenes.draw_spoilt(s, "fused", rng),
    "both have a mixture of the shapes": lambda s, rng: scenes.draw_spoilt(s, "morphed", rng),
    "the object has another colour": lambda s, rng: scenes.draw(_another(s, "colour", rng), rng),
    "the object has another shape": lambda s, rng: scenes.draw(_another(s, "shape", rng), rng),
    "another relation": lambda s, rng: scenes.draw(
        replace(s, relation=_other(rng, list(scenes.RELATIONS), {s.relation})), rng
    ),
    "turned round": lambda s, rng: scenes.draw(s.swapped(), rng),
}


def seen_of_drawn(clip: clip_features.Clip) -> dict[str, list[float]]:
    """Returns the share of scenes for which each of SCORES is lower after spoiling, for each entry of SPOILINGS.

    The scenes have pairs of entities that are held out of all training. "turned round" leaves out symmetric relations.
    """
    found = {}
    for number, (name, spoil) in enumerate(SPOILINGS.items()):
        relations = [r for r in scenes.RELATIONS if name != "turned round" or r not in scenes.SYMMETRIC]
        asked = [scene for r in relations for scene in scenes.unseen_scenes(r, _SPOILT.value, 31)]
        rng = np.random.default_rng([79, number])
        good, bad = (
            score(clip, np.stack([draw(scene, rng) for scene in asked]), asked) for draw in (scenes.draw, spoil)
        )
        found[name] = [float(np.mean(good[each] > bad[each])) for each in SCORES]
    return found


def area(values: np.ndarray, right: np.ndarray, prompts: np.ndarray) -> float:
    """Returns how often a right picture scores higher than a wrong picture of the same prompt; 0.5 is chance.

    The result is the mean over all pairs of a right and a wrong picture of a prompt, and then over prompts.
    """
    found = []
    for prompt in np.unique(prompts):
        good, bad = values[(prompts == prompt) & right], values[(prompts == prompt) & ~right]
        if len(good) and len(bad):
            found.append(np.mean((good[:, None] > bad) + 0.5 * (good[:, None] == bad)))
    return float(np.mean(found))


def beside_judge(clip: clip_features.Clip, evaluation: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Compares scores with the judge's verdicts on the pictures of an evaluation.

    Returns the `area` of each score for each verdict, and the means of verdicts and scores for each method.
    """
    listed = sets.read_pictures(evaluation)
    as_asked = [scores.asked_for(picture.prompt, scenes.PHRASES[picture.relation]) for picture in listed]
    asked = [
        Scene(picture.relation, *(scenes.Entity(*entity.split()) for entity in (prompt.subject, prompt.object)))
        for picture, prompt in zip(listed, as_asked, strict=True)
    ]
    images = np.stack([np.asarray(Image.open(picture.file)) for picture in tqdm(listed, "read", mininterval=1)])
    found = score(clip, images, asked)
    relation, entities = judge.right(judge.look(images / np.float32(127.5) - 1), asked)
    verdicts = {"relation right": relation, "both entities right": entities, "all right": relation & entities}
    prompts = np.array([f"{picture.relation}: {picture.prompt}" for picture in listed])
    areas = {verdict: [area(found[name], right, prompts) for name in SCORES[:3]] for verdict, right in verdicts.items()}
    of_method = defaultdict(list)
    for i, picture in enumerate(listed):
        of_method[picture.method].append(i)
    columns = [*verdicts.values(), found["relation_right"], *(found[name] for name in SCORES[:3])]
    return areas, {method: [float(np.mean(c[rows])) for c in columns] for method, rows in of_method.items()}


def table(head: list[str], rows: dict[str, list[float]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join([name, *(f'{value:.2f}' for value in row)])} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def main(argv) -> None:
    del argv
    sizes = CONFIG.text
    tokens = MINIATURE_FOLDER / "tokenizer"
    out = Path(_OUT.value)
    clip = train(Tokenizer.load(tokens, vocab_size=sizes.vocab_size, length=sizes.max_position_embeddings), out)
    areas, methods = beside_judge(clip, Path(_EVALUATION.value))
    names = [f"`{name}`" for name in SCORES]
    parts = [
        table(["spoilt scene", *names], seen_of_drawn(clip)),
        table(["the judge's verdict", *names[:3]], areas),
        table(["", *(f"judge: {verdict}" for verdict in areas), "`relation_right`", *names[:3]], methods),
    ]
    (out / "table.md").write_text("\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    app.run(main)
