"""Measures how well the miniature model draws prompts with the words of its captions and pairs of entities new to it.

    python benchmarks/miniature_quality.py --out runs/quality

The script draws 500 prompts for the seven named relations, and draws 70 of the prompts again with the word "hatched"
added. `reversion_jax.evaluate` measures how well relations are *learned*. This script takes about a minute and writes
table.md and the pictures.
"""

from pathlib import Path

import numpy as np
from absl import app, flags

from reversion_jax import config as settings
from reversion_jax.drawing import generate, pictures
from reversion_jax.miniature import judge, scenes
from reversion_jax.training import prepare
from reversion_jax.weights.load import load_model

_OUT = flags.DEFINE_string("out", "runs/quality", "Folder for the table and the pictures.")
_MODEL = flags.DEFINE_string(
    "model", settings.MINIATURE, "Diffusers folder of another model, such as a snapshot of recipes/pretrain.py."
)
_PROMPTS = flags.DEFINE_integer("prompts", 500, "Number of prompts.")
_HATCHED = 70


def main(argv) -> None:
    del argv
    out, count = Path(_OUT.value), _PROMPTS.value
    c = settings.get_config()
    c.model = settings.MINIATURE
    c = prepare.settle(c)
    model = load_model(_MODEL.value)

    rng = np.random.default_rng(5)
    asked = [scenes.unseen_scenes(scenes.NAMED[i % 7], 1, seed=500 + i)[0] for i in range(count)]
    texts = [f"{s.subject} {rng.choice(scenes.CAPTIONS[s.relation][0])} {s.object}" for s in asked]

    def draw(texts: list[str]) -> np.ndarray:
        seeds = range(1000, 1000 + len(texts))
        return generate.draw(model.sd, model.tokenizer, texts, seeds, sampling=generate.Sampling.of(c))

    images = draw(texts)
    relation, entities = judge.right(judge.look(images), asked)
    of = np.array([scene.relation for scene in asked])
    lines = ["| | prompts | relation right | both entities right | all right |", "|---|---|---|---|---|"]
    for name in (*scenes.NAMED, "all"):
        mine = (of == name) | (name == "all")
        shares = " | ".join(f"{hits[mine].mean():.1%}" for hits in (relation, entities, relation & entities))
        lines.append(f"| {name} | {mine.sum()} | {shares} |")
        pictures.save_png(out / f"{name}.png", pictures.grid(generate.to_uint8(images[mine][:100]), 10))
    hatched = draw([text + scenes.HATCHED for text in texts[:_HATCHED]])
    pictures.save_png(out / "hatched.png", pictures.grid(generate.to_uint8(hatched), 10))
    told, untold = judge.leaked(hatched).mean(), judge.leaked(images).mean()
    of_hatched = np.logical_and(*judge.right(judge.look(hatched), asked[:_HATCHED])).mean()
    lines += [
        "",
        f"Hatched pictures: {told:.0%} if the prompt says so (all right: {of_hatched:.0%}), {untold:.1%} otherwise.",
    ]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
