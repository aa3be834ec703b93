"""How well the miniature's unnamed relations are learned: shares of unseen pairs that the judge finds right.

    python benchmarks/unnamed_relations.py --out runs/unnamed

For hug, carved_by and hanging_from: three seeds of Inv-ReVersion, 200 prompts each, beside the same prompts with the
untrained row, with the best single word of the captions' vocabulary (chosen on other prompts), and with the phrase
that describes the relation; and the named relations by their own words, on 500 prompts. It took 17 minutes on
two busy CPU cores; writes table.md, table.json and the pictures.
"""

import json
from pathlib import Path

import numpy as np
from absl import app, flags
from tqdm import tqdm

from reversion_jax import config as settings
from reversion_jax import generate, job, pictures
from reversion_jax.inversion import prompts, words
from reversion_jax.miniature import judge, scenes

VERB_WEIGHT = {"hug": 0.8, "carved_by": 0.8, "hanging_from": 0.2}  # as in configs/
SEEDS = (0, 1, 2)
TEST_SEED = 99  # of the prompts that the table is about
_OUT = flags.DEFINE_string("out", "runs/unnamed", "Where tables and pictures go.")
_PROMPTS = flags.DEFINE_integer("prompts", 200, "Prompts of each cell.")
_WORD_PROMPTS = flags.DEFINE_integer("word_prompts", 40, "Prompts on which the best single word is chosen.")


def config_of(relation: str, seed: int):
    c = settings.get_config()
    c.model, c.relation, c.seed, c.verb_weight = settings.MINIATURE, relation, seed, VERB_WEIGHT[relation]
    return settings.settle(c)


def train(task: job.Job):
    """The rows [P, D] after all steps."""
    state, _ = job.advance(task, job.first_state(task), task.config.steps, capacity=task.config.steps)
    return state.rows[0]


def score(task: job.Job, asked: list[scenes.Scene], texts: list[str], rows, label: str, save: Path | None = None):
    """Shares of pictures with the relation right, both entities right, and all of it; seeds 1000, 1001, …"""
    c = task.config
    images = generate.draw(
        task.sd,
        task.tokenizer,
        texts,
        [1000 + i for i in range(len(texts))],
        rows,
        num_steps=c.sample_steps,
        guidance_scale=c.guidance_scale,
        resolution=c.resolution,
        batch_size=20,
        progress=label,
    )
    relation, entities = judge.right(judge.look(images), asked)
    if save:
        pictures.save_png(save, pictures.grid(generate.to_uint8(images[:100]), 10))
    right = {"relation": relation, "entities": entities, "all": relation & entities}
    return {name: float(hits.mean()) for name, hits in right.items()}, images


def prompt(scene: scenes.Scene, relation: str, *, inverse: bool = False) -> str:
    a, b = (scene.object, scene.subject) if inverse else (scene.subject, scene.object)
    return f"{a} {relation} {b}"


def best_words(task: job.Job, count: int) -> dict[str, str]:
    """For each relation the caption word that shows it most often, on pairs of their own."""
    vocabulary = sorted({*words.load("miniature_prepositions"), *words.load("miniature_verbs"), "and"})
    found = {relation: {} for relation in VERB_WEIGHT}
    tested = {(s.subject, s.object) for s in scenes.unseen_scenes("on", _PROMPTS.value, TEST_SEED)}
    asked = [s for s in scenes.unseen_scenes("on", 4 * count, 77) if (s.subject, s.object) not in tested][:count]
    for word in tqdm(vocabulary, "single words"):
        _, images = score(task, asked, [prompt(s, word) for s in asked], task.first_rows[0], None)
        verdict = judge.look(images)
        for relation in found:
            wanted = [scenes.Scene(relation, s.subject, s.object) for s in asked]
            found[relation][word] = float(np.mean(np.logical_and(*judge.right(verdict, wanted))))
    return {relation: max(shares, key=shares.get) for relation, shares in found.items()}


def main(argv) -> None:
    del argv
    out = Path(_OUT.value)
    task = job.prepare(config_of("hug", 0))
    cells = []

    def add(relation: str, by: str, asked, texts, rows, save=None):
        shares, _ = score(task, asked, texts, rows, f"{relation}, {by}", save and out / f"{save}.png")
        cells.append({"of": relation, "by": by, "prompts": len(asked), "shares": shares})
        print(json.dumps(cells[-1]), flush=True)

    rng = np.random.default_rng(5)
    named = [s for i in range(500) for s in scenes.unseen_scenes(scenes.NAMED[i % 7], 1, seed=500 + i)]
    own = [prompt(s, str(rng.choice(scenes.CAPTIONS[s.relation][0]))) for s in named]
    for relation in scenes.NAMED:
        mine = [i for i, s in enumerate(named) if s.relation == relation]
        add(relation, "own words", [named[i] for i in mine], [own[i] for i in mine], task.first_rows[0], relation)
    keys = ("relation", "entities", "all")
    whole = {
        key: float(np.average([c["shares"][key] for c in cells], weights=[c["prompts"] for c in cells])) for key in keys
    }
    cells.append({"of": "seven named", "by": "own words", "prompts": len(named), "shares": whole})
    best = best_words(task, _WORD_PROMPTS.value)
    for relation, word in best.items():
        asked = scenes.unseen_scenes(relation, _PROMPTS.value, TEST_SEED)
        by = lambda text, asked=asked, **kw: [prompt(s, text, **kw) for s in asked]
        first = task.first_rows[0]
        add(relation, "untrained row", asked, by(prompts.RELATION), first)
        add(relation, f"best word: {word}", asked, by(word), first)
        add(relation, f"phrase: {scenes.CAPTIONS[relation][0][0]}", asked, by(scenes.CAPTIONS[relation][0][0]), first)
        for seed in SEEDS:
            rows = train(job.prepare(config_of(relation, seed)))
            add(relation, f"<R>, seed {seed}", asked, by(prompts.RELATION), rows, f"{relation}-{seed}")
            turned = by(f"{prompts.INVERSE} {prompts.RELATION}", inverse=True)
            half = len(asked) // 2
            add(relation, f"<R-inv> <R>, seed {seed}", asked[:half], turned[:half], rows)
    lines = [
        "| relation | by | prompts | relation right | both entities right | all right |",
        "|---|---|---|---|---|---|",
    ]
    for c in cells:
        shares = " | ".join(f"{c['shares'][key]:.1%}" for key in keys)
        lines.append(f"| {c['of']} | {c['by']} | {c['prompts']} | {shares} |")
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join(lines) + "\n")
    (out / "table.json").write_text(json.dumps(cells, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
