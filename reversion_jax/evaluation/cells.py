"""The cells of an evaluation: what each draws, and what the judge says of its pictures."""

import dataclasses
import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reversion_jax.config import Settings
from reversion_jax.drawing import generate, pictures
from reversion_jax.inversion import words
from reversion_jax.inversion.prompts import INVERSE, RELATION
from reversion_jax.miniature import judge, scenes
from reversion_jax.runtime import files, parallel
from reversion_jax.training import dreambooth
from reversion_jax.training.prepare import load_exemplars
from reversion_jax.weights.load import Model
from reversion_jax.weights.stored import read_json

WORD, PHRASE, DREAMBOOTH = "best single word", "describing phrase", "DreamBooth"
_FIRST_SEED = 1000  # of the pictures: the i-th prompt's noise is the same for every method
_WORD_SEED = 77  # of the pairs on which single words are tried


@dataclasses.dataclass(frozen=True)
class Asked:
    """A cell: prompts of one relation, drawn by one method's rows, by words, or by a model made for it."""

    relation: str
    method: str
    seed: int  # the training's
    direction: str  # "direct"; "inverse": the entities named the other way round
    words: str  # what stands for the relation in the prompts
    rows: np.ndarray | None = None  # [P, D]
    fine_tuned_on: Settings | None = None  # the run whose exemplars DreamBooth learns

    @property
    def is_trained(self) -> bool:
        return self.rows is not None or self.fine_tuned_on is not None

    @property
    def name(self) -> str:
        method = "".join(letter if letter.isalnum() else "_" for letter in self.method.lower())
        return f"{self.relation}/{method}-seed{self.seed}-{self.direction}"


def cells(
    plan: Mapping, runs: Sequence[Settings], rows: Sequence[np.ndarray], single_words: Mapping[str, str]
) -> Iterator[Asked]:
    """Everything to draw: words once, and every run's rows [P, D], turned round too where that means something."""
    trained = zip(runs, rows, strict=True)
    for relation in plan["relations"]:
        _, inverse = scenes.CAPTIONS[relation]
        yield Asked(relation, WORD, 0, "direct", single_words[relation])
        yield Asked(relation, PHRASE, 0, "direct", scenes.PHRASES[relation])
        if inverse:
            yield Asked(relation, PHRASE, 0, "inverse", inverse[0])
        of_seed = {}
        for method, seed in itertools.product(plan["methods"] | plan["ablations"], plan["seeds"]):
            of_seed[seed], learned = next(trained)
            yield Asked(relation, method, seed, "direct", RELATION, learned)
            if of_seed[seed].inverse_share and relation not in scenes.SYMMETRIC:
                yield Asked(relation, method, seed, "inverse", f"{INVERSE} {RELATION}", learned)
        if plan["dreambooth"]:
            for seed, run in of_seed.items():
                yield Asked(relation, DREAMBOOTH, seed, "direct", plan["dreambooth"]["word"], fine_tuned_on=run)


def draw(model: Model, config: Settings, texts: Sequence[str], rows: np.ndarray | None = None) -> np.ndarray:
    """Images of the prompts at the config's sampling settings, the i-th from the i-th seed."""
    seeds = [_FIRST_SEED + i for i in range(len(texts))]
    return generate.draw(model.sd, model.tokenizer, texts, seeds, rows, sampling=generate.Sampling.of(config))


def best_words(model: Model, config: Settings, plan: Mapping, path: Path) -> dict[str, str]:
    """For each relation the word of the captions that shows it most often, on pairs of its own; kept in `path`."""
    if path.is_file():
        return read_json(path)
    vocabulary = sorted({*words.load(config.prepositions), *words.load(config.verbs), config.initialiser})
    # Only the pairs matter, which are the same for every relation.
    pairs = lambda count, seed: scenes.unseen_scenes("beside", count, seed)
    tested = {(s.subject, s.object) for s in pairs(plan["prompts"], plan["prompt_seed"])}
    count = plan["word_prompts"]
    tried = [s for s in pairs(10 * count, _WORD_SEED) if (s.subject, s.object) not in tested][:count]
    shares: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for word in tqdm(vocabulary, "single words"):
        verdict = judge.look(draw(model, config, [f"{s.subject} {word} {s.object}" for s in tried]))
        for relation in plan["relations"]:
            asked = [scenes.Scene(relation, s.subject, s.object) for s in tried]
            shares[relation][word] = float(np.mean(np.logical_and(*judge.right(verdict, asked))))
    found = {relation: max(of_words, key=of_words.__getitem__) for relation, of_words in shares.items()}
    files.write(path, json.dumps(found, indent=1) + "\n")
    return found


def judge_cell(model: Model, config: Settings, plan: Mapping, asked: Asked, workdir: Path) -> dict[str, list[bool]]:
    """Draws a cell's prompts, keeps the pictures, and returns what the judge says of each; kept as a file."""
    path = workdir / "cells" / f"{asked.name}.json"
    if path.is_file():
        return read_json(path)
    shown = scenes.unseen_scenes(asked.relation, plan["prompts"], plan["prompt_seed"])
    pairs = [(s.object, s.subject) if asked.direction == "inverse" else (s.subject, s.object) for s in shown]
    if asked.fine_tuned_on is not None:
        model = _fine_tuned(model, asked.fine_tuned_on, plan, workdir / "dreambooth")
    images = draw(model, config, [f"{a} {asked.words} {b}" for a, b in pairs], asked.rows)
    verdict = judge.look(images)
    relation, entities = judge.right(verdict, shown)
    seen = {
        "relation": relation,
        "entities": entities,
        "fused": judge.fused(verdict, shown),
        "leaked": judge.leaked(images),
    }
    for i, image in enumerate(generate.to_uint8(images)):
        pictures.save_png(workdir / "pictures" / asked.name / f"{i:03d}.png", image)
    found = {name: values.tolist() for name, values in seen.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(found) + "\n")
    return found


def _fine_tuned(model: Model, run: Settings, plan: Mapping, workdir: Path) -> Model:
    """What DreamBooth makes of the model by a run's exemplars. It is not kept: a UNet for each cell is too much."""
    sd, tokenizer, name = model
    recipe = dreambooth.Recipe(**plan["dreambooth"])
    shutil.rmtree(workdir, ignore_errors=True)  # another cell's, of an evaluation that was stopped
    unet = dreambooth.train(run, recipe, sd, tokenizer, load_exemplars(run), workdir)
    shutil.rmtree(workdir)
    unet = parallel.split(unet, parallel.mesh_of(sd.params))
    return Model(sd._replace(params={**sd.params, "unet": unet}), tokenizer, name)
