"""Does the work of the command `score`: scores pictures by a CLIP model, and prints and writes the scores."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reversion_jax.data import exemplars
from reversion_jax.data.relations import SYMMETRIC
from reversion_jax.drawing import generate, inspection, look, pictures
from reversion_jax.evaluation import clip_features, scores
from reversion_jax.evaluation.user_study import sets
from reversion_jax.inversion.prompts import Template, parse
from reversion_jax.runtime import files

_ROWS = 20  # maximum number of prompts in the printed table; scores.json has all prompts


class Pictures(NamedTuple):
    """Which pictures to score, as the flags of the command `score` say."""

    folder: str | None
    clip: str | None
    relation: str | None
    words: str | None
    others: list[str] | None
    exemplars: str | None


class Learned(NamedTuple):
    """Which learned words to measure, as the flags of the command `score` say."""

    workdir: str | None
    embedding: str | None
    model: str | None
    initialiser: str


class Shown(NamedTuple):
    """A picture, and what it should show."""

    file: Path
    method: str  # "" if there is only one method
    relation: str | None
    prompt: str
    texts: list[str]  # the texts to compare with, see `scores.sentences`


def read_pictures(folder: Path, relation: str | None, words: str | None, others: list[str] | None) -> list[Shown]:
    """Reads the pictures of a folder.

    The folder has a pictures.json, which also names the relations, or a text.json, or PNGs that `sample` wrote.
    relation, words, others: see `scores.words_for`. Raises ValueError or OSError if the folder cannot be
    read, if the folder does not say what its pictures show, or if `words` or `others` do not fit the folder's
    relations.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder of pictures at {folder}")
    listed: list[tuple[Path, str, str | None, Template]]  # file, method, relation, prompt
    if (folder / sets.PICTURES).is_file():
        listed = [(p.file, p.method, p.relation, p.prompt) for p in sets.read_pictures(folder)]
    elif (folder / exemplars.CAPTIONS).is_file():
        captions = exemplars.read_captions(folder)
        listed = [(folder / name, "", relation, templates[0]) for name, templates in captions.items()]
    else:
        drawn = {file: pictures.read_metadata(file).get("prompt") for file in sorted(folder.glob("*.png"))}
        listed = [(file, "", relation, prompt) for file, prompt in drawn.items() if prompt]
    if not listed:
        raise ValueError(f"no picture in {folder} says what it shows: unless `sample` drew it, add a text.json there")
    relations = {relation for _, _, relation, _ in listed}
    if len(relations) > 1 and (words or others):
        raise ValueError(f"{folder} has pictures of {len(relations)} relations: leave out --words and --other")
    wording = {relation: scores.words_for(relation, words, others) for relation in relations}
    shown = []
    for file, method, named, prompt in listed:
        own, rest = wording[named]
        label = prompt if isinstance(prompt, str) else parse(prompt).direct()
        texts = scores.sentences(scores.asked_for(prompt, own), own, rest)
        shown.append(Shown(file, method, named, label, texts))
    return shown


def score_pictures(shown: list[Shown], model: str, exemplar_folder: Callable[[str | None], Path | None]) -> dict:
    """Returns the scores of each picture and prompt, and each method's means and standard errors over prompts.

    model: the CLIP model's folder or hub id. exemplar_folder: a function that returns a relation's folder of exemplars,
    or None. Raises ValueError or OSError if the model, a picture or an exemplar cannot be used.
    """
    clip = clip_features.load(model)
    images = clip_features.of_pictures(clip, [picture.file for picture in shown], progress="pictures")
    vectors = clip_features.of_sentences(clip, [picture.texts for picture in shown])
    values = {name: np.asarray(column, float) for name, column in scores.of_pictures(images, vectors).items()}
    rows = [{name: float(column[i]) for name, column in values.items()} for i in range(len(shown))]
    groups: dict[tuple[str, str | None, str], list[int]] = {}
    for i, picture in enumerate(shown):
        groups.setdefault((picture.method, picture.relation, picture.prompt), []).append(i)
        if picture.relation in SYMMETRIC:
            del rows[i]["order_margin"]
    for relation in {picture.relation for picture in shown}:
        if folder := exemplar_folder(relation):
            # The exemplars are squashed to squares, as in training.
            taught = generate.to_uint8(exemplars.read_folder(folder, clip.config.vision.image_size).images)
            theirs = clip_features.of_pictures(clip, [Image.fromarray(image) for image in taught])
            mine = [i for i, picture in enumerate(shown) if picture.relation == relation]
            for i, value in zip(mine, scores.exemplar_similarity(images[mine], theirs), strict=True):
                rows[i]["exemplar_similarity"] = float(value)
    by_prompt: list[dict[str, Any]] = []
    for group, members in groups.items():
        means = {name: mean for name, (mean, _) in scores.means([rows[i] for i in members]).items()}
        if len(members) > 1:
            means["diversity"] = float(scores.diversity(images[members]))
        by_prompt.append(dict(zip(("method", "relation", "prompt"), group, strict=True)) | {"scores": means})
    methods = dict.fromkeys(picture.method for picture in shown)
    return {
        "clip": model,
        "methods": {m: scores.means([p["scores"] for p in by_prompt if p["method"] == m]) for m in methods},
        "prompts": by_prompt,
        "pictures": [p._asdict() | {"file": str(p.file), "scores": row} for p, row in zip(shown, rows, strict=True)],
    }


def table(result: Mapping) -> str:
    """Formats the result of `score_pictures`: means and standard errors of each method.

    If there is only one method, the table also has a row for each prompt.
    """
    methods = result["methods"]
    names = list(dict.fromkeys(name for means in methods.values() for name in means))
    rows = [(p["prompt"], p["scores"]) for p in result["prompts"][:_ROWS]] if len(methods) == 1 else []
    for method, means in methods.items():
        rows.append((method or "mean over prompts", {name: mean for name, (mean, _) in means.items()}))
        rows.append(("  standard error", {name: error for name, (_, error) in means.items()}))
    width = max(len(head) for head, _ in rows)
    lines = [" " * width + "".join(f"  {name}" for name in names)]
    for head, values in rows:
        cells = ["" if values.get(name) is None else f"{values[name]:.3f}" for name in names]
        lines.append(f"{head:{width}}" + "".join(f"  {c:>{len(n)}}" for n, c in zip(names, cells, strict=True)))
    return "\n".join(lines)


def _look(learned: Learned) -> look.Look:
    """Compares the words of a run or a file with the model's words."""
    if learned.workdir:
        return inspection.read_run(files.place(learned.workdir), learned.model)[1]
    source = inspection.Source(learned.embedding or "", learned.model, initialiser=learned.initialiser)
    return inspection.read(source)[1]


def score(asked: Pictures, learned: Learned) -> None:
    """Prints the scores of pictures and the measurements of learned words, and writes scores.json.

    Raises ValueError or OSError if there is nothing to score, or if the model, a picture or a word cannot be used.
    """
    if not (asked.folder or learned.workdir or learned.embedding):
        raise ValueError("nothing to score: give --pictures=FOLDER, --workdir=RUN or --embedding=FILE")
    result: dict[str, Any] = {}
    if learned.workdir or learned.embedding:
        seen = _look(learned)
        result["words"] = look.as_json(seen)
        print(look.describe(seen))
    if asked.folder:
        if not asked.clip:
            raise ValueError("a CLIP model scores the pictures: give it by --clip=FOLDER_OR_HUB_ID")
        folder = files.place(asked.folder)
        shown = read_pictures(folder, asked.relation, asked.words, asked.others)

        def exemplar_folder(relation: str | None) -> Path | None:
            beside = folder / "exemplars" / str(relation)  # an evaluation writes exemplars here
            return files.place(asked.exemplars) if asked.exemplars else beside if beside.is_dir() else None

        result |= score_pictures(shown, asked.clip, exemplar_folder)
        print(table(result))
    if kept := asked.folder or learned.workdir:
        out = files.place(kept) / "scores.json"
        files.write(out, json.dumps(result, indent=1) + "\n")
        print(f"all scores: {out}")
