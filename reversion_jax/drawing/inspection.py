"""Inspects learned words: prints the results of `look` and `attention`, and writes them into a folder."""

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
    """The learned words to inspect, as the arguments of the `inspect` command name them."""

    name: str  # a run's folder, an embedding file, a folder of embedding files, or a hub id
    model: str | None = None  # None: the run's model
    step: int | None = None  # the step of a run's checkpoint; None: the newest rows
    initialiser: str | None = None  # word or file that an embedding file's training started from; not used for a run


class Prompt(NamedTuple):
    """A prompt to draw with attention maps."""

    text: str
    seed: int = 0
    settings: Mapping[str, Any] = {}  # new values of the run's or the model's settings, by their names in config.py


def read(source: Source) -> tuple[words.Words, look.Look]:
    """Reads learned words and compares them with the model's words. Raises ValueError or OSError for bad input."""
    if _is_run(source):
        return read_run(files.place(source.name), source.model, source.step)
    if source.step is not None:
        raise ValueError(f"--step={source.step} is for training runs, but {source.name} is a file: leave it out")
    if not source.model:
        raise ValueError(f"{source.name} is compared with the words of a model: give --model=FOLDER_OR_HUB_ID")
    found = words.read(None, source.model, [source.name])
    return found, look.look(found, None, source.initialiser)


def read_run(workdir: epath.Path, model: str | None = None, step: int | None = None) -> tuple[words.Words, look.Look]:
    """Reads the words of a training run and compares them with the words of `model`, by default the run's model.

    Raises ValueError or OSError for bad input.
    """
    found = words.read(workdir, model, step=step)
    return found, look.look(found, workdir, found.settings.initialiser)


def _is_run(source: Source) -> bool:
    """Returns whether a source's name means a training run, rather than embedding files or a hub id.

    A folder is a run if it has a config or no embedding files. If no file or folder has this name, the name
    means a run unless a model is given or the name ends as an embedding file's name does.
    """
    path = files.place(source.name)
    if path.is_dir():
        holds_files = any(child.suffix in embeddings.SUFFIXES for child in path.iterdir())
        return (path / folder.CONFIG).is_file() or not holds_files
    return not source.model and not path.exists() and path.suffix not in embeddings.SUFFIXES


def watch(found: words.Words, prompt: Prompt) -> attention.Attention:
    """Draws the prompt with the learned words; returns the picture and its attention maps.

    Raises ValueError or OSError for bad input.
    """
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
    """Prints and writes how learned words compare with the model's words and, if given, a prompt's attention maps.

    Writes words.txt, words.json and words.png. For a prompt, writes the drawn picture, and its attention maps as
    attention-….png and attention-….json.
    out: folder for these files; by default WORKDIR/inspect for a run, and inspect/NAME for an embedding file.
    Returns the folder. Raises ValueError or OSError for bad input.
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
        print(f"{attention_sheet.describe(numbers)}\ndraw this to compare: --prompt {numbers['stand_in']!r}")
        name = f"{shots.file_name(prompt.text)}-{prompt.seed}"
        of_prompt = {"prompt": prompt.text, "seed": str(prompt.seed), **about}
        pictures.save_png(place / f"{name}.png", generate.to_uint8(watched.image), of_prompt)
        pictures.save_png(place / f"attention-{name}.png", attention_sheet.sheet(watched, learned), of_prompt)
        files.write(place / f"attention-{name}.json", json.dumps(numbers, indent=1) + "\n")
    return place
