"""Inspects learned words: what `look` and `attention` find, printed and written into a folder."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from reversion_jax.config import check
from reversion_jax.drawing import (
    attention,
    attention_sheet,
    generate,
    look,
    pictures,
    samples,
    shots,
    word_map,
    words,
)
from reversion_jax.models.tokenizer import check_text
from reversion_jax.runs import folder
from reversion_jax.runtime import files, parallel
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import embeddings
from reversion_jax.weights.load import load_model
from reversion_jax.weights.variant import Variant


class Source(NamedTuple):
    """The learned words to inspect, as the command's arguments name them."""

    name: str  # a run's folder, an embedding file, a folder of such files, or a hub id
    model: str | None = None  # by default the run's
    step: int | None = None  # of a run's checkpoint; by default the newest rows
    initialiser: str | None = None  # what a file's words started from; a run knows its own


class Prompt(NamedTuple):
    """A prompt over whose picture the words' attention is drawn."""

    text: str
    seed: int = 0
    settings: Mapping[str, Any] = {}  # that override the run's or the model's, by the names of config.py


def read(source: Source) -> tuple[words.Words, look.Look]:
    """The learned words, and a look at them. ValueError, OSError, one line each."""
    if _is_run(source):
        return read_run(files.place(source.name), source.model, source.step)
    if source.step is not None:
        raise ValueError(f"--step={source.step} names a checkpoint of a training run, and {source.name} is none")
    if not source.model:
        raise ValueError(f"{source.name} is looked at beside a model's words: give --model=FOLDER_OR_HUB_ID")
    found = words.read(None, source.model, [source.name])
    return found, look.look(found, None, source.initialiser)


def read_run(workdir: epath.Path, model: str | None = None, step: int | None = None) -> tuple[words.Words, look.Look]:
    """The words of a training run, and a look at them beside its own model's words or another's; errors as `read`."""
    found = words.read(workdir, model, step=step)
    return found, look.look(found, workdir, found.settings.initialiser)


def _is_run(source: Source) -> bool:
    """Whether a name means a training run: a folder that is none of embedding files, or nothing that could be one."""
    path = files.place(source.name)
    if path.is_dir():
        holds_files = any(child.suffix in embeddings.SUFFIXES for child in path.iterdir())
        return (path / folder.CONFIG).is_file() or not holds_files
    return not source.model and not path.exists() and path.suffix not in embeddings.SUFFIXES


def watch(found: words.Words, prompt: Prompt) -> attention.Attention:
    """Draws the prompt with the learned words, and watches where they look. ValueError, OSError, one line each."""
    settings = dataclasses.replace(found.settings, **prompt.settings)
    check(settings)
    check_text(prompt.text)
    rows_per_token = {token: len(rows) for token, rows in found.tokens.items()}
    mesh = parallel.make_mesh(1)  # one picture, so one device
    sd, tokenizer, _ = load_model(settings.model, rows_per_token, settings.precision, mesh, Variant.of(settings))
    for complaint in samples.complaints([prompt.text], settings.negative_prompt, tokenizer):
        warn(complaint)
    sampling = generate.Sampling.of(settings)
    rows = np.concatenate(list(found.tokens.values()))
    return attention.attend(sd, tokenizer, prompt.text, rows, seed=prompt.seed, sampling=sampling, progress="drawing")


def inspect(source: Source, prompt: Prompt | None = None, out: str | None = None) -> epath.Path:
    """Prints what there is to see of learned words and, with a prompt, of their attention; returns the files' folder.

    Files: words.txt, words.json, words.png; of a prompt a picture, and attention-… as .png and .json. They lie in
    inspect/ of the run's folder; of a file's words, in inspect/ and its name where the command runs. ValueError and
    OSError, one line each.
    """
    found, seen = read(source)
    print(f"{seen.model}: {seen.origin}\n{look.describe(seen)}")
    path = files.place(source.name)
    beside = path / "inspect" if (path / folder.CONFIG).is_file() else epath.Path("inspect") / path.stem
    place = files.place(out) if out else beside
    place.mkdir(parents=True, exist_ok=True)
    files.write(place / "words.txt", look.describe(seen) + "\n")
    files.write(place / "words.json", json.dumps(look.as_json(seen), indent=1) + "\n")
    about = {"model": seen.model, "words": seen.origin}
    pictures.save_png(place / "words.png", word_map.picture(seen), about)
    if prompt:
        watched, learned = watch(found, prompt), tuple(found.tokens)
        numbers = attention_sheet.as_json(watched, learned) | {"stand_in": look.stand_in(seen, prompt.text)}
        print(f"{attention_sheet.describe(numbers)}\nto compare with: --prompt {numbers['stand_in']!r}")
        name = f"{shots.file_name(prompt.text)}-{prompt.seed}"
        of_prompt = {"prompt": prompt.text, "seed": str(prompt.seed), **about}
        pictures.save_png(place / f"{name}.png", generate.to_uint8(watched.image), of_prompt)
        pictures.save_png(place / f"attention-{name}.png", attention_sheet.sheet(watched, learned), of_prompt)
        files.write(place / f"attention-{name}.json", json.dumps(numbers, indent=1) + "\n")
    return place
