"""Draws and stores the cells of an evaluation.

A cell is one relation, method, seed and direction, with its pictures and their scores.

The scores are stored in one file. When a cell is finished, a line is appended to this file:

    cells.jsonl     {"relation": "hug", "method": "ReVersion", "seed": 0, "direction": "direct", "words": "<R>",
                     "made_by": "5f0c…", "scores": {"relation": [1, 0, …], …}}, with a number for each prompt

If a line is deleted, the next evaluation draws the line's cell again. `made_by` is a hash of every setting that the
cell depends on.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reversion_jax.config import FREE, Settings
from reversion_jax.data.relations import SYMMETRIC
from reversion_jax.drawing import generate, pictures
from reversion_jax.evaluation.plan import NATURAL, Plan
from reversion_jax.inversion.prompts import INVERSE, RELATION, RelationPrompt
from reversion_jax.runtime import files, parallel
from reversion_jax.runtime.errors import warn
from reversion_jax.training import dreambooth
from reversion_jax.training.prepare import load_exemplars
from reversion_jax.weights.load import Model, load_model
from reversion_jax.weights.variant import Variant

CELLS, DREAMBOOTH = "cells.jsonl", "DreamBooth"
DIRECT, INVERTED = "direct", "inverse"  # "inverse": the prompt names the two entities in reverse order
_OF_DRAWING = (
    *("model", "vae", "ema", "prediction_type", "clip_skip", "precision", "resolution", "height", "width"),
    *("sampler", "sample_steps", "guidance_scale", "negative_prompt"),
)
_FORMER_DEFAULTS = {"inverse_share": 0.5}  # in version 0.5, whose hashes must stay valid
_FIRST_SEED = 1000  # seed of a cell's first picture; picture i has the same seed for every method

Key = tuple[str, str, int | None, str]  # relation, method, seed of the training, direction
Scores = dict[str, list[float]]  # for each metric, a number for each prompt
# Computes the scores from a relation, its prompts, and the files of each prompt's pictures.
Scorer = Callable[[str, Sequence[RelationPrompt], Sequence[Sequence[Path]]], Scores]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A cell to be drawn: a relation's prompts with learned or plain words, or for a model that DreamBooth made."""

    relation: str
    method: str
    seed: int | None  # seed of the training; None for plain words
    direction: str  # DIRECT or INVERTED
    words: str  # the words for the relation in the prompts
    run: Settings | None = None  # the run that learns the words, or whose exemplars DreamBooth uses

    @property
    def key(self) -> Key:
        return self.relation, self.method, self.seed, self.direction

    @property
    def name(self) -> str:
        """The name of the folder of the cell's pictures."""
        method = "".join(letter if letter.isalnum() else "_" for letter in self.method.lower())
        return f"{self.relation}/{method}{'' if self.seed is None else f'-seed{self.seed}'}-{self.direction}"

    def texts(self, prompts: Sequence[RelationPrompt]) -> list[str]:
        """Returns for each prompt the text from which pictures are drawn."""
        return [(p.swapped() if self.direction == INVERTED else p).fill(self.words) for p in prompts]


def of_plan(plan: Plan) -> Iterator[Asked]:
    """Yields every cell of a plan: for each relation, first plain words, then each run's words, then DreamBooth.

    A run with inverse prompts has a second cell in the inverse direction, unless the relation is symmetric.
    """
    for relation in plan.relations:
        runs = {key: run for key, run in plan.runs.items() if key[0] == relation}
        for name, words in plan.words.items():
            if relation in words:
                yield Asked(relation, name, None, DIRECT, words[relation])
        if relation in plan.turned:
            yield Asked(relation, NATURAL, None, INVERTED, plan.turned[relation])
        for (_, method, seed), run in runs.items():
            yield Asked(relation, method, seed, DIRECT, RELATION, run)
            if run.inverse_share and relation not in SYMMETRIC:
                yield Asked(relation, method, seed, INVERTED, f"{INVERSE} {RELATION}", run)
        if plan.dreambooth:
            for seed in plan.seeds:
                run = next(run for (*_, own), run in runs.items() if own == seed)
                yield Asked(relation, DREAMBOOTH, seed, DIRECT, plan.dreambooth.word, run)


def made_by(plan: Plan, asked: Asked, scorer: str) -> str:
    """Returns a hash of everything that a cell depends on: settings, prompts, and the scorer's name.

    Settings with their default value are left out, so that a new setting in a later version does not change the hash.
    """
    values = [
        settings_of(asked.run) if asked.run else {},
        {name: getattr(plan.training, name) for name in _OF_DRAWING},
        dataclasses.asdict(plan.dreambooth) if plan.dreambooth and asked.method == DREAMBOOTH else {},
        asked.texts(plan.prompts[asked.relation]),
        plan.images,
        scorer,
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def settings_of(run: Settings) -> dict[str, Any]:
    """Returns the settings that a run's words depend on: `steps`, and all that must not change when the run is resumed.

    Settings with their default value are left out. If a default has changed since, its former value is left out.
    """
    default = {field.name: field.default for field in dataclasses.fields(run)} | _FORMER_DEFAULTS
    own = {name: value for name, value in dataclasses.asdict(run).items() if value != default[name]}
    return {name: value for name, value in own.items() if name not in FREE or name == "steps"}


def read(path: Path) -> dict[Key, dict[str, Any]]:
    """Reads cells.jsonl. Leaves out damaged lines, with a warning, so that the cells of these lines are drawn again."""
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), start=1):
        try:
            record = files.from_json(line)
            seed = None if record["seed"] is None else int(record["seed"])
            found[record["relation"], record["method"], seed, record["direction"]] = {
                "made_by": str(record["made_by"]),
                "scores": _checked(record["scores"]),
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            warn(f"{path}, line {number} is damaged: its cell will be drawn again")
    return found


def _checked(scores: Mapping[str, Any]) -> Scores:
    return {name: [float(value) for value in values] for name, values in scores.items()}


def write(path: Path, asked: Asked, made_by: str, scores: Scores) -> None:
    """Appends a cell's line to cells.jsonl.

    If a kill or an editor left the last line without a line end, first ends that line.
    """
    plain = {name: [int(v) if v in (0, 1) else round(v, 5) for v in values] for name, values in scores.items()}
    about = dict(zip(("relation", "method", "seed", "direction"), asked.key, strict=True))
    line = json.dumps(about | {"words": asked.words, "made_by": made_by, "scores": plain}) + "\n"
    before = path.read_bytes() if path.is_file() else b""
    unfinished = before != b"" and not before.endswith(b"\n")
    files.append(path, "\n" * unfinished + line)


def picture_files(plan: Plan, asked: Asked, workdir: Path) -> list[list[Path]]:
    """Returns the paths of a cell's pictures, by prompt."""
    place = workdir / "pictures" / asked.name
    numbered = lambda i, k: f"{i:03d}.png" if plan.images == 1 else f"{i:03d}-{k}.png"
    return [[place / numbered(i, k) for k in range(plan.images)] for i in range(len(plan.prompts[asked.relation]))]


def picture_seeds(plan: Plan, relation: str) -> list[list[int]]:
    """Returns the seed of each picture, by prompt. The seeds are the same for every method."""
    count = len(plan.prompts[relation])
    return [[_FIRST_SEED + i * plan.images + k for k in range(plan.images)] for i in range(count)]


def draw(
    model: Model,
    plan: Plan,
    asked: Asked,
    rows: np.ndarray | None,
    workdir: Path,
    on_drawn: Callable[[int], object] = lambda count: None,
) -> list[list[Path]]:
    """Draws a cell's pictures; returns their paths by prompt.

    rows: learned rows [P, D], or None. on_drawn: a function that is called after each batch with the batch's number of
    pictures.
    """
    if asked.method == DREAMBOOTH:
        model = _fine_tuned(model, plan, asked, workdir / "dreambooth")
    texts = [text for text in asked.texts(plan.prompts[asked.relation]) for _ in range(plan.images)]
    seeds = [seed for own in picture_seeds(plan, asked.relation) for seed in own]
    sampling = generate.Sampling.of(plan.training)
    places = picture_files(plan, asked, workdir)
    in_turn = iter([place for own in places for place in own])
    for batch in generate.draw_batches(model.sd, model.tokenizer, texts, seeds, rows, sampling=sampling):
        for image in generate.to_uint8(batch):
            pictures.save_png(next(in_turn), image)
        on_drawn(len(batch))
    return places


def _fine_tuned(model: Model, plan: Plan, asked: Asked, workdir: Path) -> Model:
    """Fine-tunes the model on a run's exemplars by DreamBooth. The result is not stored, because UNets are large."""
    assert plan.dreambooth is not None
    assert asked.run is not None
    sd, tokenizer, name = model
    taught = sd
    if jax.tree.leaves(sd.params["unet"])[0].dtype != np.float32:  # 16 bits are too coarse for training
        taught = load_model(name, precision="tensorfloat32", variant=Variant.of(asked.run)).sd
    shutil.rmtree(workdir, ignore_errors=True)  # an evaluation that was stopped may have left this folder
    unet = dreambooth.train(asked.run, plan.dreambooth, taught, tokenizer, load_exemplars(asked.run), workdir)
    shutil.rmtree(workdir)
    unet = jax.tree.map(lambda new, old: np.asarray(new).astype(old.dtype), unet, sd.params["unet"])
    unet = parallel.split(unet, parallel.mesh_of(sd.params))
    return Model(sd._replace(params={**sd.params, "unet": unet}), tokenizer, name)
