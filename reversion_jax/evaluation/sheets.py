"""Writes an evaluation's contact sheets and, for the user study, the list of its pictures and the exemplars."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reversion_jax.data import exemplars
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.drawing import generate, pictures
from reversion_jax.evaluation import cells
from reversion_jax.evaluation.cells import Asked
from reversion_jax.evaluation.plan import Plan
from reversion_jax.evaluation.tables import DIRECTIONS
from reversion_jax.evaluation.user_study.sets import PICTURES
from reversion_jax.inversion.prompts import RelationPrompt, Template
from reversion_jax.runtime import files

_PROMPTS = 6  # maximum number of prompts on a contact sheet


def write(plan: Plan, drawn: Sequence[Asked], shown: Mapping[str, Exemplars], workdir: Path) -> None:
    """Writes sheets/<relation>.png, exemplars/<relation> and pictures.json, for the first training seed.

    drawn: all cells of the plan. shown: each relation's exemplars.
    Cells without pictures are left out, such as cells whose lines were copied from another evaluation's cells.jsonl.
    """
    records = []
    for relation in plan.relations:
        place = workdir / "exemplars" / relation
        if not place.exists():
            templates = [[_template(prompt) for prompt in own] for own in shown[relation].templates]
            exemplars.write_folder(place, generate.to_uint8(shown[relation].images), templates)
        asked = [cell for cell in drawn if cell.relation == relation and cell.seed in (None, plan.seeds[0])]
        asked = [cell for cell in asked if _has_pictures(plan, cell, workdir)]
        sheet = _sheet(plan, relation, asked, shown[relation], workdir)
        pictures.save_png(workdir / "sheets" / f"{relation}.png", sheet)
        for cell in asked:
            if cell.direction == cells.DIRECT:
                records += _records(plan, cell, workdir)
    files.write(workdir / PICTURES, json.dumps(records) + "\n")


def _template(prompt: RelationPrompt) -> Template:
    """Returns the template from which `parse` returns this prompt."""
    if prompt.fault:
        return prompt.fill("{}")
    return {"text": prompt.text, "subject": prompt.subject, "object": prompt.object}


def _has_pictures(plan: Plan, cell: Asked, workdir: Path) -> bool:
    return all(file.is_file() for own in cells.picture_files(plan, cell, workdir) for file in own)


def _sheet(plan: Plan, relation: str, asked: Sequence[Asked], shown: Exemplars, workdir: Path) -> Image.Image:
    """Draws a contact sheet: the exemplars, and below them a row for each prompt with a column for each method."""
    prompts = plan.prompts[relation][:_PROMPTS]
    columns = max(len(asked), 4)
    taught = generate.to_uint8(shown.images)[:columns]
    captions = [own[0].fill("{}") for own in shown.templates][:columns]
    sections = [("exemplars", taught, captions)]
    drawn = [cells.picture_files(plan, cell, workdir) for cell in asked]
    names = [f"{cell.method}{DIRECTIONS[cell.direction]}" for cell in asked]
    for i, prompt in enumerate(prompts if asked else ()):
        images = np.stack([np.asarray(Image.open(of_cell[i][0])) for of_cell in drawn])
        sections.append((prompt.direct(), images, names))
    return pictures.contact_sheet(relation, sections, columns=columns)


def _records(plan: Plan, cell: Asked, workdir: Path) -> list[dict]:
    """Returns a cell's records for pictures.json. A record identifies a picture by its prompt and its seed."""
    records: list[dict] = []
    listed: set[str] = set()
    drawn, seeds = cells.picture_files(plan, cell, workdir), cells.picture_seeds(plan, cell.relation)
    for prompt, own, of_own in zip(plan.prompts[cell.relation], drawn, seeds, strict=True):
        text = prompt.direct()
        if text in listed:  # prompts of drawn scenes may have duplicates
            continue
        listed.add(text)
        for file, seed in zip(own, of_own, strict=True):
            about = {"relation": cell.relation, "method": cell.method, "seed": seed, "prompt": text}
            records.append(about | {"file": str(file.relative_to(workdir))})
    return records
