"""Starts a run from the page's form, or resumes a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reversion_jax import config
from reversion_jax.config import OPEN, Settings
from reversion_jax.inversion.prompts import parse
from reversion_jax.runs import folder
from reversion_jax.training.page import captions, models, uploads
from reversion_jax.training.page.place import Place, whole
from reversion_jax.training.page.trainer import Trainer
from reversion_jax.weights import own_settings

MAX_STEPS = 20_000
_PREVIEWS = 6  # number of previews during a run; one more is drawn before the first step
_MAX_PROMPTS = 8
INVERTIBLE = "inv_reversion"  # the method whose captions need an inverse prompt
_STEPS_PER_DISPATCH = 10  # whenever this many more steps are done, the page is updated and can stop the run


def default_steps(place: Place, model: str) -> int:
    """Returns the number of steps that suits a model.

    For a hub model, this is the number for Stable Diffusion 1.5, because reading its own settings needs the internet.
    """
    own = own_settings.read(place.model(model)) if model in place.models() and model != config.SD15 else {}
    return own.get("steps", config.FOR_SD15["steps"])


def pictures(files: Sequence[Path]) -> list[Path]:
    """Returns the pictures among uploaded files. Raises ValueError if there are too many."""
    found = [path for path in files if path.suffix.lower() != ".json"]
    if len(found) > uploads.MAX_PICTURES:
        raise ValueError(
            f"{len(found)} pictures are too many: upload at most {uploads.MAX_PICTURES}; 4 to 10 are enough"
        )
    return found


def start(place: Place, trainer: Trainer, form: Mapping[str, Any], *, drawn: bool) -> str:
    """Starts a new run; returns its name. Raises ValueError or OSError if a value in the form is wrong.

    drawn: whether the exemplars are drawn rather than uploaded.
    """
    trainer.refuse_while_busy()
    prompts = captions.lines(form["preview_prompts"])[:_MAX_PROMPTS]
    chosen = Settings(
        model=place.model(form["model"] or ""),
        method=form["method"],
        steps=whole(form["steps"], 1, MAX_STEPS, "the number of steps"),
        seed=whole(form["seed"], 0, 2**31 - 1, "the seed"),
        verb_weight=float(form["verb_weight"]),
        preview_prompts=tuple(map(captions.with_relation, prompts)) or OPEN,
    )
    name = place.free(form["name"] or (form["relation"] if drawn else "relation"))
    own = _drawn(form) if drawn else _own_pictures(place.path(name), chosen, form)
    _train(place, trainer, name, dataclasses.replace(chosen, **own))
    return name


def _drawn(form: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings for drawn exemplars."""
    count = whole(form["count"], 1, uploads.MAX_PICTURES, "the number of pictures")
    of_pictures = {"num_exemplars": count, "hatched": bool(form["hatched"])}
    return {"exemplars": config.DRAWN, "relation": form["relation"], **of_pictures}


def _own_pictures(run: Path, chosen: Settings, form: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the uploaded pictures into the run's folder; returns the settings for them."""
    found = pictures([Path(file) for file in form["files"] or []])
    if not found:
        raise ValueError("there are no pictures yet: upload 4 to 10 that show the same relation")
    invertible = chosen.method == INVERTIBLE
    texts = zip(found, form["captions"], strict=False)
    templates = [captions.templates(text, path.name, invertible) for path, text in texts]
    uploads.write(run / "exemplars", found, templates, invertible=invertible)
    own: dict[str, Any] = {"exemplars": str(run / "exemplars"), "relation": run.name.partition("-")[0]}
    # The miniature model's own preview prompts are about shapes, so preview the captions' prompts instead.
    if not chosen.preview_prompts and chosen.model == config.MINIATURE:
        own["preview_prompts"] = tuple(parse(first).direct() for first, *_ in templates[:_MAX_PROMPTS])
    return own


def take_up(place: Place, trainer: Trainer, name: str, steps: object) -> str:
    """Resumes a stopped run, or trains a finished one further, until it has `steps` steps; returns its name.

    Raises ValueError or OSError if the run cannot be resumed.
    """
    trainer.refuse_while_busy()
    if not name:
        raise ValueError("choose a run in the list first")
    settings, _ = folder.read_settings(place.run(name))
    wanted = whole(steps, 1, MAX_STEPS, "the number of steps in total")
    listed = next((listed for listed in place.runs() if listed.name == name), None)
    if listed and listed.step >= wanted:
        raise ValueError(f"{name} has {listed.step:,} steps already: give more steps in total to train it further")
    _train(place, trainer, name, dataclasses.replace(settings, steps=wanted))
    return name


def _train(place: Place, trainer: Trainer, name: str, settings: Settings) -> None:
    """Starts training with settings that let the page show progress and that do not change the learned word."""
    assert settings.steps is not None
    shown = dataclasses.replace(
        settings,
        steps_per_dispatch=_STEPS_PER_DISPATCH,
        preview_every_steps=max(1, settings.steps // _PREVIEWS),
        judged_prompts=0,  # the judge's verdict would appear only in the terminal
    )
    models.forget()
    trainer.start(name, shown, place.path(name), settings.steps)
