"""Measures how well scores without CLIP agree with the judge (a classifier), on pictures of the miniature model.

    python benchmarks/scores.py --out runs/scores

The script measures leakage and diversity in two ways: from the judge's features and from pixels. It also compares
statistics of learned rows, which need no picture, with the judge's verdicts on pictures at several steps of training.
The script writes table.md and table.json.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy.stats import spearmanr

from reversion_jax import config as settings
from reversion_jax.evaluation import scores
from reversion_jax.inversion import prompts, rows
from reversion_jax.miniature import judge, scenes
from reversion_jax.models.clip import token_table
from reversion_jax.training import prepare, report

SEEDS = 4  # pictures per prompt
STEPS = (0, 25, 50, 100, 200, 400)
_OUT = flags.DEFINE_string("out", "runs/scores", "Folder for the tables.")
_PROMPTS = flags.DEFINE_integer("prompts", 3, "Pairs of entities per relation, to measure diversity.")
_JUDGED = flags.DEFINE_integer("judged", 24, "Prompts with learned rows, at each step in STEPS.")

flat = lambda images: images.reshape(len(images), -1)
SPACES = {"judge's features": judge.features, "pixels": flat}


def draw(task: prepare.Job, texts, label: str, learned=None, seed: int = 0) -> np.ndarray:
    """Returns pictures, float [N, 64, 64, 3] in [-1, 1]. Picture i has the seed `seed` + i."""
    drawn = report.draw(task, texts, task.first_rows[0] if learned is None else learned, label, seed)
    return drawn / np.float32(127.5) - 1


def leakage(task: prepare.Job) -> dict[str, float]:
    """Returns how often pictures of an exemplar's entities are more like the exemplars than pictures of other entities.

    0.5 is chance. The prompts name the relation in words. Half of the prompts have a pair of entities of an exemplar,
    and half have a pair that no exemplar has.
    """
    found = {name: [] for name in SPACES}
    for relation in scenes.RELATIONS:
        taught, templates = scenes.exemplars(relation, 8, seed=0)
        own = [prompts.parse(listed[0]).natural(scenes.PHRASES[relation]) for listed in templates]
        unseen = [f"{s.subject} {scenes.PHRASES[relation]} {s.object}" for s in scenes.unseen_scenes(relation, 8, 22)]
        images = draw(task, [*own, *unseen], f"leaked, {relation}", seed=500)
        for name, space in SPACES.items():
            values = np.asarray(scores.exemplar_similarity(space(images), space(taught / np.float32(127.5) - 1)))
            found[name].append(np.mean(values[:8, None] > values[None, 8:]))  # compares pictures of the same relation
    return {name: float(np.mean(values)) for name, values in found.items()}


def diversity(task: prepare.Job) -> dict[str, float]:
    """Returns the rank correlation, over prompts, of diversity with the number of relations that the judge sees.

    The prompts join the entities by words for the relation, or by "and", which leaves the relation open.
    """
    pairs = [s for relation in scenes.RELATIONS for s in scenes.unseen_scenes(relation, _PROMPTS.value, 21)]
    texts = [f"{s.subject} {words} {s.object}" for s in pairs for words in (scenes.PHRASES[s.relation], "and")]
    images = draw(task, [text for text in texts for _ in range(SEEDS)], "diversity")
    kinds = [len(set(seen)) for seen in judge.look(images).relation.reshape(-1, SEEDS).tolist()]
    found = {}
    for name, space in SPACES.items():
        features = space(images)
        values = scores.diversity(jnp.asarray(features).reshape(-1, SEEDS, features.shape[-1]))
        found[name] = float(spearmanr(values, kinds).statistic)
    return found


def looks(task: prepare.Job) -> list[dict]:
    """Returns, for each run and each of STEPS, statistics of <R> and the share of pictures with the right relation."""
    found, state = [], prepare.first_state(task)
    for step in STEPS:
        if count := step - int(state.step):
            state, _ = prepare.advance(task, state, count, capacity=STEPS[-1])
        for number, run in enumerate(task.runs):
            learned = jnp.copy(state.rows[number])
            seen = rows.diagnose(learned, task.first_rows[number], token_table(task.sd.params))
            asked = scenes.unseen_scenes(run.config.relation, _JUDGED.value, 23)
            texts = [f"{s.subject} {prompts.RELATION} {s.object}" for s in asked]
            images = draw(task, texts, f"{run.config.relation}, step {step}", learned, seed=1000)
            found.append(
                {
                    "relation": run.config.relation,
                    "step": step,
                    "relation_right": float(judge.right(judge.look(images), asked)[0].mean()),
                    "norm_by_median": float(seen.norms[0] / seen.median_norm),
                    "cosine_to_start": float(seen.to_start[0]),
                    "cosine_to_inverse": float(seen.between[0, 1]),
                    "nearest": task.tokenizer.ids_to_words(np.asarray(seen.nearest_ids[0])),
                }
            )
            print(json.dumps(found[-1]), flush=True)
    return found


def main(argv) -> None:
    del argv
    c = settings.get_config()
    c.model, c.steps = settings.MINIATURE, STEPS[-1]
    c.runs = tuple({"relation": relation} for relation in scenes.REPORTING)
    task = prepare.prepare(prepare.settle(c))
    of_pictures = {"leakage": leakage(task), "diversity": diversity(task)}
    print(json.dumps(of_pictures), flush=True)
    of_rows = looks(task)
    lines = ["| score | " + " | ".join(SPACES) + " |", "|---|" + "---|" * len(SPACES)]
    lines += [
        f"| {name} | " + " | ".join(f"{v:.2f}" for v in found.values()) + " |" for name, found in of_pictures.items()
    ]
    lines += ["", "| relation | step | relation right | norm / median | cosine to start | to `<R-inv>` | nearest |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in of_rows:
        numbers = [f"{row[key]:.2f}" for key in ("norm_by_median", "cosine_to_start", "cosine_to_inverse")]
        cells = " | ".join([f"{row['relation_right']:.0%}", *numbers, " ".join(row["nearest"])])
        lines.append(f"| {row['relation']} | {row['step']} | {cells} |")
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join(lines) + "\n")
    (out / "table.json").write_text(json.dumps({"pictures": of_pictures, "rows": of_rows}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
