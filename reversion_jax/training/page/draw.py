"""Draws pictures for the page, and copies the pictures and a zip of them into a folder that the browser may read."""

import contextlib
import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from reversion_jax.config import Settings
from reversion_jax.data import relations
from reversion_jax.diffusion import samplers
from reversion_jax.drawing import samples, words
from reversion_jax.drawing.words import Words
from reversion_jax.inversion.prompts import INVERSE, RELATION, parse
from reversion_jax.miniature import scenes
from reversion_jax.training.page import captions, models
from reversion_jax.training.page.faults import heard, tell
from reversion_jax.training.page.place import Place, whole
from reversion_jax.training.page.trainer import Trainer

MAX_IMAGES, MAX_STEPS, MAX_GUIDANCE, MAX_PROMPTS, MAX_SEED = 16, 200, 30.0, 8, 2**31
SAMPLERS = (samplers.AUTO, *samplers.SAMPLERS)
DIRECT, BACKWARD, PLAIN = "direct", "inverse", "plain words"


class Drawn(NamedTuple):
    """The pictures that were drawn, as files that the browser may read."""

    pictures: list[tuple[str, str]]  # (path, caption), ordered by seed and then by prompt
    columns: int  # of the gallery
    archive: str  # path of a zip of all pictures
    prompts: dict[str, str]  # prompts by label, such as "direct"; a prompt without a label is its own key


def source(place: Place, key: str, model: str) -> Words:
    """Reads the words of a run or an embedding file, and the settings to draw with.

    key: see `Place.words`. model: the model for an embedding file; a run's settings name the run's model.
    Raises ValueError or OSError for bad input.
    """
    workdir, files = place.word(key)
    return words.read(workdir, None if workdir else place.model(model), files)


def token(found: Words) -> str:
    """Returns the learned word that replaces `{}`."""
    return RELATION if RELATION in found.tokens else next(iter(found.tokens), "{}")


def plain_words(found: Words) -> str:
    """Returns plain words for a run's relation; "" if they are not known."""
    relation = found.settings.relation
    return scenes.PHRASES.get(relation) or relations.WORDS.get(relation, "")


def compared(prompt: str, found: Words, plain: str) -> dict[str, str]:
    """Returns up to three forms of one prompt: with the learned word, with its inverse, and in plain words.

    The inverse form is left out if there is no <R-inv>, and the form in plain words if `plain` is empty. Raises
    ValueError if the prompt does not have two things with one `{}` between them.
    """
    template = captions.as_template(prompt)
    if template.count("{}") != 1:
        raise ValueError("to compare, write two things with one {} between them, as in: cat {} stone")
    parsed = parse(template)
    said = {DIRECT: parsed.fill(token(found))}
    if INVERSE in found.tokens:
        said[BACKWARD] = parsed.inverse()
    return said | ({PLAIN: parsed.natural(plain)} if plain.strip() else {})


def draw(place: Place, trainer: Trainer, form: Mapping[str, Any]) -> Drawn:
    """Draws the pictures that the form asks for, into a new folder in the run's `samples`.

    The metadata of each PNG says how it was made.
    `form` has the fields key and model (see `source`), prompts (text), compare, plain, count, seed, steps, guidance,
    sampler and negative.
    Raises ValueError or OSError for bad input.
    """
    trainer.refuse_without_memory()
    found = source(place, form["key"] or "", form["model"] or "")
    found = found._replace(settings=_settings(found.settings, form))
    prompts = _prompts(found, form)
    count = whole(form["count"], 1, MAX_IMAGES, "the number of pictures of each prompt")
    seed = whole(form["seed"], 0, MAX_SEED, "the first seed")
    workdir, _ = place.word(form["key"] or "")
    out = samples.free_folder((workdir or epath.Path(place.folder)) / "samples")
    try:
        with heard() as notes:
            samples.draw_into(found, list(prompts.values()), out, num_images=count, seed=seed, load=models.load)
    except BaseException:
        with contextlib.suppress(OSError):  # rmdir fails for a folder with files, which stays
            out.rmdir()
        raise
    for note in notes:
        # The prompt in plain words has no learned word on purpose, so it needs no warning about a missing word.
        if not (form["compare"] and repr(prompts.get(PLAIN)) in note):
            tell(note)
    return _handed_out(Path(out), prompts, count, seed)


def _settings(settings: Settings, form: Mapping[str, Any]) -> Settings:
    """Returns `settings` with the form's values for drawing. Raises ValueError if a value is out of range."""
    guidance = float(form["guidance"]) if form["guidance"] is not None else -1.0
    if not 0 <= guidance <= MAX_GUIDANCE:
        raise ValueError(f"the guidance must be a number from 0 to {MAX_GUIDANCE:g}")
    samplers.check(form["sampler"])
    return dataclasses.replace(
        settings,
        sample_steps=whole(form["steps"], 1, MAX_STEPS, "the number of steps"),
        sampler=form["sampler"],
        guidance_scale=guidance,
        negative_prompt=(form["negative"] or "")[: captions.MAX_LETTERS],
    )


def _prompts(found: Words, form: Mapping[str, Any]) -> dict[str, str]:
    """Returns the prompts to draw, by label (see `Drawn`). Raises ValueError for missing or too many prompts."""
    typed = captions.lines(form["prompts"])
    if not typed:
        raise ValueError("write a prompt, with {} for the relation")
    if len(typed) > MAX_PROMPTS or max(map(len, typed)) > captions.MAX_LETTERS:
        raise ValueError(f"at most {MAX_PROMPTS} prompts at once, each of at most {captions.MAX_LETTERS} letters")
    if form["compare"]:
        return compared(typed[0], found, (form["plain"] or "")[: captions.MAX_LETTERS])
    texts = [captions.with_relation(prompt, token(found)) for prompt in typed]
    return dict(zip(texts, texts, strict=True))


def _handed_out(out: Path, prompts: dict[str, str], count: int, seed: int) -> Drawn:
    """Copies the pictures into a folder for the browser, which may not read the folder of runs."""
    copies = Path(tempfile.mkdtemp(prefix="pictures-"))
    files = [copies / path.name for path in sorted(out.glob("[0-9]*.png"))]
    archive = copies / f"{out.parent.parent.name}-{out.name}.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(out.glob("*.png")):
            shutil.copyfile(path, copies / path.name)
            zipped.write(path, f"{archive.stem}/{path.name}")
    label = lambda name, own: f"seed {own}" if len(prompts) == 1 else f"{name}, seed {own}"
    places = [(n, name, i) for i in range(count) for n, name in enumerate(prompts)]
    shown = [(str(files[n * count + i]), label(name, seed + i)) for n, name, i in places]
    return Drawn(shown, len(prompts) if len(prompts) > 1 else min(count, 4), str(archive), prompts)
