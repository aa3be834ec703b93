"""Draws for the page, and hands the pictures out: copies in a folder of the page's own, and a zip of them."""

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
    """What was drawn, as files that the browser may read."""

    pictures: list[tuple[str, str]]  # with captions; where there are several prompts, a row for each seed
    columns: int
    archive: str  # a zip of all pictures
    prompts: dict[str, str]  # by what they are called, or by themselves


def source(place: Place, key: str, model: str) -> Words:
    """The words of a run or an embedding file, and how to draw with them. ValueError, OSError."""
    workdir, files = place.word(key)
    return words.read(workdir, None if workdir else place.model(model), files)


def token(found: Words) -> str:
    """The learned word that `{}` stands for."""
    return RELATION if RELATION in found.tokens else next(iter(found.tokens), "{}")


def plain_words(found: Words) -> str:
    """Plain words for a run's relation, where they are known."""
    relation = found.settings.relation
    return scenes.PHRASES.get(relation) or relations.WORDS.get(relation, "")


def compared(prompt: str, found: Words, plain: str) -> dict[str, str]:
    """One prompt said in several ways: by the learned word, by its inverse, and in plain words. ValueError."""
    template = captions.as_template(prompt)
    if template.count("{}") != 1:
        raise ValueError("to compare, write two things with one {} between them, as in: cat {} stone")
    parsed = parse(template)
    said = {DIRECT: parsed.fill(token(found))}
    if INVERSE in found.tokens:
        said[BACKWARD] = parsed.inverse()
    return said | ({PLAIN: parsed.natural(plain)} if plain.strip() else {})


def draw(place: Place, trainer: Trainer, form: Mapping[str, Any]) -> Drawn:
    """Draws what the form says into a new folder beside the run; the PNGs say how they were made. ValueError, OSError.

    form: key and model (of `source`), prompts (text), compare, plain, count, seed, steps, guidance, sampler, negative.
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
        with contextlib.suppress(OSError):  # a folder that holds something stays
            out.rmdir()
        raise
    for note in notes:
        if not (form["compare"] and repr(prompts.get(PLAIN)) in note):  # plain words hold no learned one: it is meant
            tell(note)
    return _handed_out(Path(out), prompts, count, seed)


def _settings(settings: Settings, form: Mapping[str, Any]) -> Settings:
    """The settings by which the form wants pictures drawn. ValueError."""
    guidance = float(form["guidance"]) if form["guidance"] is not None else -1.0
    if not 0 <= guidance <= MAX_GUIDANCE:
        raise ValueError(f"the guidance has to be a number from 0 to {MAX_GUIDANCE:g}")
    samplers.check(form["sampler"])
    return dataclasses.replace(
        settings,
        sample_steps=whole(form["steps"], 1, MAX_STEPS, "the number of steps"),
        sampler=form["sampler"],
        guidance_scale=guidance,
        negative_prompt=(form["negative"] or "")[: captions.MAX_LETTERS],
    )


def _prompts(found: Words, form: Mapping[str, Any]) -> dict[str, str]:
    """The prompts that are drawn, by what they are called. ValueError."""
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
    """Copies of the pictures for the browser, which may not read the chosen folder."""
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
