"""Inspects a learned word for the page: numbers for each of its rows, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from reversion_jax.config import Settings
from reversion_jax.drawing import attention_sheet, inspection, look, word_map
from reversion_jax.training.page import captions
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.trainer import Trainer


class Insight(NamedTuple):
    """What is known about a word: numbers by the row's name, from `look.as_json`, and pictures with captions."""

    words: Mapping[str, Mapping]
    pictures: list[tuple[Image.Image, str]]


def look_into(place: Place, trainer: Trainer, key: str, model: str, prompt: str = "") -> Insight:
    """Inspects the words of a run or an embedding file and, if there is a prompt, draws its attention maps.

    key, model: see `draw.source`. Raises ValueError or OSError for bad input.
    """
    trainer.refuse_without_memory()
    if not key:
        raise ValueError("choose a learned word first; if there is none, learn one")
    workdir, files = place.word(key)
    if workdir:
        found, seen = inspection.read_run(workdir)
    else:
        source = inspection.Source(files[0], place.model(model), initialiser=Settings().initialiser)
        found, seen = inspection.read(source)
    pictures = [(word_map.picture(seen), "map of the learned word, its path, and the model's words")]
    if text := captions.with_relation(prompt.strip()[: captions.MAX_LETTERS], next(iter(found.tokens))):
        watched = inspection.watch(found, inspection.Prompt(text))
        pictures.append((attention_sheet.sheet(watched, tuple(found.tokens)), f"attention of the words: {text}"))
    return Insight(look.as_json(seen), [*pictures, *(_plots(Path(workdir)) if workdir else [])])


def _plots(run: Path) -> list[tuple[Image.Image, str]]:
    """Returns the run's plot, if there is one, with a caption. A link out of the run's folder is not followed."""
    path = run / "training.png"
    if not path.is_file() or not path.resolve().is_relative_to(run.resolve()):
        return []
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
    return [(image, "losses and nearest words over the training steps")]
