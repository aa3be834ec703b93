"""Scores pictures by a CLIP; or looks at learned words beside the model's own, without a picture.

Pictures that `sample` drew, which say what they were asked for (or any folder of pictures with a text.json):

    python -m reversion_jax.score --pictures runs/hug/samples/000 --relation hug --clip openai/clip-vit-large-patch14

The words of a training run, or of an embedding file:

    python -m reversion_jax.score --workdir runs/hug
    python -m reversion_jax.score --embedding learned_embeds.bin --model stable-diffusion-v1-5/stable-diffusion-v1-5

What each number means, and what it cannot see, is said in reversion_jax/scores.py and inversion/rows.py.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reversion_jax.errors import one_line, parse_flags

_SHOWN = 20  # prompts in the printed table; the file has all


def read_pictures(folder: Path, words: str) -> dict[str, tuple[str, object]]:
    """File names -> prompt and what it asks for: by text.json if there is one, else of `sample`'s PNGs. ValueError."""
    from reversion_jax import pictures, scores
    from reversion_jax.data import exemplars
    from reversion_jax.inversion import prompts

    if not folder.is_dir():
        raise ValueError(f"no folder of pictures at {folder}")
    if (folder / exemplars.CAPTIONS).is_file():
        templates = {name: listed[0] for name, listed in exemplars.read_captions(folder).items()}
        return {name: (prompts.natural(t, words), prompts.parse(t)) for name, t in templates.items()}
    drawn = {path.name: pictures.read_metadata(path).get("prompt") for path in sorted(folder.glob("*.png"))}
    found = {name: (prompt, scores.asked_for(prompt, words)) for name, prompt in drawn.items() if prompt}
    if not found:
        raise ValueError(f"no picture in {folder} says what it shows: sample's PNGs do, others need a text.json there")
    return found


def score_pictures(
    folder: Path, model: str, words: str, others: Sequence[str], *, directed: bool, exemplar_folder: Path | None = None
) -> dict:
    """Scores by picture and by prompt, and their means and standard errors over prompts; ValueError, OSError."""
    import numpy as np
    from PIL import Image

    from reversion_jax import clip_features, generate, scores
    from reversion_jax.data import exemplars

    shown = read_pictures(folder, words)
    clip = clip_features.load(model)
    images = clip_features.of_pictures(clip, [folder / name for name in shown], progress="pictures")
    texts = [scores.sentences(asked, words, others) for _, asked in shown.values()]
    different, number = np.unique(texts, return_inverse=True)
    vectors = clip_features.of_texts(clip, different.tolist())
    values = scores.of_pictures(images, vectors[number.reshape(len(texts), -1)])
    if not directed:
        del values["order_margin"]
    if exemplar_folder:
        # Whole and square, as the training saw them.
        taught = exemplars.read_folder(exemplar_folder, clip.config.vision.image_size)
        theirs = [Image.fromarray(image) for image in generate.to_uint8(taught.images)]
        values["exemplar_similarity"] = scores.exemplar_similarity(images, clip_features.of_pictures(clip, theirs))
    values = {name: np.asarray(column, float) for name, column in values.items()}
    asked = np.array([prompt for prompt, _ in shown.values()])
    by_prompt = {}
    for prompt in dict.fromkeys(asked.tolist()):
        mine = asked == prompt
        by_prompt[prompt] = {name: float(column[mine].mean()) for name, column in values.items()}
        if mine.sum() > 1:
            by_prompt[prompt]["diversity"] = float(scores.diversity(images[mine]))
    return {
        "settings": {"folder": str(folder), "clip": model, "words": words, "others": list(others)},
        "mean": scores.means(list(by_prompt.values())),
        "prompts": by_prompt,
        "pictures": {file: {k: float(v[i]) for k, v in values.items()} for i, file in enumerate(shown)},
    }


def table(result: Mapping) -> str:
    """What `score_pictures` found, for people: some prompts, then the means and their standard errors."""
    names = list(result["mean"])
    rows = list(result["prompts"].items())[:_SHOWN]
    rows.append((f"mean of {len(result['prompts'])} prompts", {name: result["mean"][name][0] for name in names}))
    rows.append(("standard error", {name: result["mean"][name][1] for name in names}))
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
    counts = [len(own) for own in tokens.values()]
    first = jnp.concatenate([rows.init(table, [tokenizer.word_ids(initialiser)], count) for count in counts])
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
    return "\n".join(
        "\n".join([name, *(f"  {key.replace('_', ' '):22} {said(value)}" for key, value in row.items() if value != {})])
        for name, row in seen.items()
    )


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: pictures are given by --pictures=FOLDER")
    if not (_PICTURES.value or _WORKDIR.value or _EMBEDDING.value):
        raise ValueError("nothing to score: give --pictures=FOLDER, --workdir=RUN or --embedding=FILE")
    from reversion_jax import files, scores
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
        words, others = scores.words_for(_RELATION.value, _WORDS.value, _OTHER.value)
        result |= score_pictures(
            Path(_PICTURES.value),
            _CLIP.value,
            words,
            others,
            directed=_RELATION.value not in scores.SYMMETRIC,
            exemplar_folder=Path(_EXEMPLARS.value) if _EXEMPLARS.value else None,
        )
        print(table(result))
    if folder := _PICTURES.value or _WORKDIR.value:
        out = files.place(folder) / "scores.json"
        files.write(out, json.dumps(result, indent=1) + "\n")
        print(f"also of each picture: {out}" if _PICTURES.value else f"also in {out}")


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
