"""Scores pictures by a CLIP; or looks at learned words beside the model's own, without a picture.

Pictures that `sample` drew, which say what they were asked for; pictures with a text.json; or those of several methods,
as an evaluation lists them in pictures.json:

    python -m reversion_jax.score --pictures runs/hug/samples/000 --relation hug --clip openai/clip-vit-base-patch16

The words of a training run, or of an embedding file:

    python -m reversion_jax.score --workdir runs/hug
    python -m reversion_jax.score --embedding learned_embeds.bin --model stable-diffusion-v1-5/stable-diffusion-v1-5

docs/scores.md says what each number means, and what it cannot see.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from reversion_jax.errors import one_line, parse_flags

_ROWS = 20  # of the printed table; the file has all


class Shown(NamedTuple):
    """A picture, and what it was asked for."""

    file: Path
    method: str
    relation: str | None
    prompt: str
    texts: list[str]  # see scores.sentences


def read_pictures(folder: Path, relation: str | None, words: str | None, others: list[str] | None) -> list[Shown]:
    """The pictures of pictures.json, which names their relations, else of text.json, else of `sample`.

    words, others: natural words for the relation, and for others; by default scores.RELATIONS. ValueError, OSError.
    """
    from reversion_jax import pictures, scores
    from reversion_jax.data import exemplars
    from reversion_jax.inversion import prompts
    from reversion_jax.user_study import sets

    if not folder.is_dir():
        raise ValueError(f"no folder of pictures at {folder}")
    if (folder / sets.PICTURES).is_file():
        listed = [(p.file, p.method, p.relation, p.prompt) for p in sets.read_pictures(folder)]
    elif (folder / exemplars.CAPTIONS).is_file():
        captions = exemplars.read_captions(folder)
        listed = [(folder / name, "", relation, templates[0]) for name, templates in captions.items()]
    else:
        drawn = {file: pictures.read_metadata(file).get("prompt") for file in sorted(folder.glob("*.png"))}
        listed = [(file, "", relation, prompt) for file, prompt in drawn.items() if prompt]
    if not listed:
        raise ValueError(f"no picture in {folder} says what it shows: sample's PNGs do, others need a text.json there")
    relations = {relation for _, _, relation, _ in listed}
    if len(relations) > 1 and (words or others):
        raise ValueError(f"{folder} has pictures of {len(relations)} relations: --words and --other are for one")
    wording = {relation: scores.words_for(relation, words, others) for relation in relations}
    shown = []
    for file, method, relation, prompt in listed:
        own, rest = wording[relation]
        label = prompt if isinstance(prompt, str) else prompts.direct(prompt)
        texts = scores.sentences(scores.asked_for(prompt, own), own, rest)
        shown.append(Shown(file, method, relation, label, texts))
    return shown


def score_pictures(shown: list[Shown], model: str, exemplar_folder: Callable[[str | None], Path | None]) -> dict:
    """Scores by picture, by prompt, and each method's means and standard errors over prompts; ValueError, OSError."""
    import numpy as np
    from PIL import Image

    from reversion_jax import clip_features, generate, scores
    from reversion_jax.data import exemplars

    clip = clip_features.load(model)
    images = clip_features.of_pictures(clip, [picture.file for picture in shown], progress="pictures")
    vectors = clip_features.of_sentences(clip, [picture.texts for picture in shown])
    values = {name: np.asarray(column, float) for name, column in scores.of_pictures(images, vectors).items()}
    rows = [{name: float(column[i]) for name, column in values.items()} for i in range(len(shown))]
    groups = {}
    for i, picture in enumerate(shown):
        groups.setdefault((picture.method, picture.relation, picture.prompt), []).append(i)
        if picture.relation in scores.SYMMETRIC:
            del rows[i]["order_margin"]
    for relation in {picture.relation for picture in shown}:
        if folder := exemplar_folder(relation):
            # Whole and square, as the training saw them.
            taught = generate.to_uint8(exemplars.read_folder(folder, clip.config.vision.image_size).images)
            theirs = clip_features.of_pictures(clip, [Image.fromarray(image) for image in taught])
            mine = [i for i, picture in enumerate(shown) if picture.relation == relation]
            for i, value in zip(mine, scores.exemplar_similarity(images[mine], theirs), strict=True):
                rows[i]["exemplar_similarity"] = float(value)
    by_prompt = []
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
    """What `score_pictures` found, for people: means and standard errors of each method; of one, by prompt as well."""
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


def look_at_words(workdir: Path | None, model: str | None, file: str | None, initialiser: str) -> dict[str, dict]:
    """Where learned rows stand in a model's token table, by their names; ValueError, OSError."""
    import jax.numpy as jnp
    import numpy as np

    from reversion_jax import embeddings, job
    from reversion_jax.inversion import prompts, rows

    if workdir:
        config, learned, _ = job.load_rows(workdir)
        model, initialiser = model or config.model, config.initialiser
        tokens = dict(zip(job.PLACEHOLDERS, np.split(np.asarray(learned), len(job.PLACEHOLDERS)), strict=True))
        if not config.inverse_share:
            del tokens[prompts.INVERSE]  # nothing was learned for it
    elif not model:
        raise ValueError("an embedding is looked at beside a model's words: give --model=FOLDER_OR_HUB_ID")
    else:
        tokens = embeddings.read(Path(file).expanduser())
    sd, tokenizer = job.load_model(model, {})
    table = sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    learned = jnp.concatenate([jnp.asarray(own) for own in tokens.values()])
    if learned.shape[1] != table.shape[1]:
        raise ValueError(f"the embedding is {learned.shape[1]} numbers wide, made for another model than {model}")
    start = tokenizer.word_ids(initialiser)
    first = jnp.concatenate([rows.init(table, [start], len(own)) for own in tokens.values()])
    seen = rows.diagnose(learned, first, table)
    names = [f"{token}[{i}]" if len(own) > 1 else token for token, own in tokens.items() for i in range(len(own))]
    words = [tokenizer.ids_to_words(ids) for ids in np.asarray(seen.nearest_ids)]
    return {
        name: {
            "norm": float(seen.norms[i]),
            "median_norm_of_words": float(seen.median_norm),
            f"cosine_to_{initialiser}": float(seen.to_start[i]),
            "nearest": dict(zip(words[i], np.asarray(seen.nearest[i]).tolist(), strict=True)),
            "cosine_to": {other: float(seen.between[i, j]) for j, other in enumerate(names) if j != i},
        }
        for i, name in enumerate(names)
    }


def describe(seen: Mapping[str, Mapping]) -> str:
    """What `look_at_words` found, for people."""
    said = lambda value: (
        ", ".join(f"{k} {v:.3f}" for k, v in value.items()) if isinstance(value, dict) else f"{value:.3f}"
    )
    lines = []
    for name, row in seen.items():
        lines += [name, *(f"  {key.replace('_', ' '):22} {said(value)}" for key, value in row.items() if value != {})]
    return "\n".join(lines)


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: pictures are given by --pictures=FOLDER")
    if not (_PICTURES.value or _WORKDIR.value or _EMBEDDING.value):
        raise ValueError("nothing to score: give --pictures=FOLDER, --workdir=RUN or --embedding=FILE")
    from reversion_jax import files
    from reversion_jax.compilation import keep_compiled

    keep_compiled()
    result = {}
    if _WORKDIR.value or _EMBEDDING.value:
        workdir = files.place(_WORKDIR.value) if _WORKDIR.value else None
        result["words"] = look_at_words(workdir, _MODEL.value, _EMBEDDING.value, _INITIALISER.value)
        print(describe(result["words"]))
    if _PICTURES.value:
        if not _CLIP.value:
            raise ValueError("pictures are scored by a CLIP: give --clip=FOLDER_OR_HUB_ID")
        folder = files.place(_PICTURES.value)
        shown = read_pictures(folder, _RELATION.value, _WORDS.value, _OTHER.value)

        def exemplar_folder(relation):
            beside = folder / "exemplars" / str(relation)  # where an evaluation has them
            return files.place(_EXEMPLARS.value) if _EXEMPLARS.value else beside if beside.is_dir() else None

        result |= score_pictures(shown, _CLIP.value, exemplar_folder)
        print(table(result))
    if kept := _PICTURES.value or _WORKDIR.value:
        out = files.place(kept) / "scores.json"
        files.write(out, json.dumps(result, indent=1) + "\n")
        print(f"all of it: {out}")


if __name__ == "__main__":
    from absl import app, flags

    _PICTURES = flags.DEFINE_string("pictures", None, "Folder of pictures; scores.json is written into it.")
    _CLIP = flags.DEFINE_string(
        "clip", None, "A CLIP that scores them: a folder as transformers writes it, or a hub id such as owner/name."
    )
    _RELATION = flags.DEFINE_string("relation", None, "One of the ReVersion Benchmark's ten, whose words are known.")
    _WORDS = flags.DEFINE_string("words", None, 'Natural words for the relation, such as "carved out of".')
    _OTHER = flags.DEFINE_multi_string(
        "other", None, "Words of a relation that it is not; may be repeated. By default those of the benchmark's."
    )
    _EXEMPLARS = flags.DEFINE_string("exemplars", None, "Folder of the exemplars: how like them are the pictures?")
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose words are looked at.")
    _EMBEDDING = flags.DEFINE_string("embedding", None, "File of learned words to look at, with --model.")
    _MODEL = flags.DEFINE_string("model", None, "The Stable Diffusion 1.x that they are for, as in `sample`.")
    _INITIALISER = flags.DEFINE_string("initialiser", "and", "The word that an embedding file's words started from.")
    app.run(main, flags_parser=parse_flags)
