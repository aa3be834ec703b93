"""The comparison of methods on the miniature, cell by cell: what is trained, drawn, judged, and put into tables.

A cell is a relation, a method and a seed. Each is kept as it is done, so that a stopped evaluation goes on.
"""

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.data import exemplars
from reversion_jax.drawing import pictures
from reversion_jax.evaluation import tables
from reversion_jax.evaluation.cells import DREAMBOOTH, PHRASE, WORD, Asked, best_words, cells, judge_cell
from reversion_jax.inversion.prompts import PLACEHOLDERS
from reversion_jax.miniature import scenes
from reversion_jax.runs import folder
from reversion_jax.runs.owner import owned
from reversion_jax.runtime import files
from reversion_jax.training import loop
from reversion_jax.training.prepare import settle
from reversion_jax.weights.load import load_model
from reversion_jax.weights.variant import Variant

_SHOWN = 8  # pictures of each method on a contact sheet


def make_plan(config: ConfigDict, *, quick: bool) -> dict:
    """What is compared, from config.evaluation: relations and methods with their own settings, seeds, prompts."""
    plan = config.evaluation.to_dict()
    plan |= {name: dict(plan[name]) for name in ("relations", "groups", "methods", "ablations")}
    of_quick = plan.pop("quick")
    if quick:
        kept = {name: plan["relations"][name] for name in of_quick["relations"] if name in plan["relations"]}
        if not kept:
            raise ValueError("--quick: config.evaluation.quick.relations has none of config.evaluation.relations")
        plan |= of_quick | {"relations": kept}
    groups = {name: [r for r in group if r in plan["relations"]] for name, group in plan["groups"].items()}
    return plan | {"groups": {name: group for name, group in groups.items() if group}}


def training(config: ConfigDict, plan: Mapping) -> ConfigDict:
    """The config that trains every method and ablation on every relation from every seed, in this order of runs."""
    methods = plan["methods"] | plan["ablations"]
    each = itertools.product(plan["relations"].items(), methods.values(), plan["seeds"])
    c = config.copy_and_resolve_references().unlock()
    del c.evaluation
    c.runs = tuple({"relation": relation, **own, **method, "seed": seed} for (relation, own), method, seed in each)
    return c


def trained_rows(config: Settings, workdir: Path) -> list[np.ndarray]:
    """Every run's learned rows [P, D]; what is trained already is read from its folder."""
    names = list(settings.each_run(config))
    kept = [workdir / name for name in names]
    if not all((folder.rows_file(place, config.steps)).is_file() for place in kept):
        loop.train(config, workdir)
    return [folder.read(place, config.steps).rows for place in kept]


def write_sheets(plan: Mapping, drawn: Sequence[Asked], runs: Sequence[Settings], workdir: Path) -> None:
    """Of the first seed, a contact sheet a relation, its exemplars, and pictures.json, a list of direct pictures."""
    records = []
    for relation in plan["relations"]:
        shown = scenes.unseen_scenes(relation, plan["prompts"], plan["prompt_seed"])
        texts = [f"{s.subject} <R> {s.object}" for s in shown]
        listed = [i for i, text in enumerate(texts) if text not in texts[:i]]  # readers know a picture by its prompt
        first = next(run for run in runs if run.relation == relation)
        shown_first, templates = scenes.exemplars(relation, first.num_exemplars, first.seed, first.hatched)
        place = workdir / "exemplars" / relation
        if not place.exists():
            exemplars.write_folder(place, shown_first, templates)
        sections = [("exemplars", shown_first, [own[0] for own in templates])]
        for cell in (cell for cell in drawn if cell.relation == relation):
            if cell.is_trained and cell.seed != plan["seeds"][0]:
                continue  # it had other exemplars
            names = [f"pictures/{cell.name}/{i:03d}.png" for i in range(len(shown))]
            images = np.stack([np.asarray(Image.open(workdir / file)) for file in names[:_SHOWN]])
            heading = f"{cell.method}{tables.DIRECTIONS[cell.direction]}: {cell.words}"
            sections.append((heading, images, texts[:_SHOWN]))
            if cell.direction == "direct":
                about = {"relation": relation, "method": cell.method, "seed": plan["seeds"][0]}
                records += [about | {"prompt": texts[i], "file": names[i]} for i in listed]
        pictures.save_png(workdir / "sheets" / f"{relation}.png", pictures.contact_sheet(relation, sections))
    files.write(workdir / "pictures.json", json.dumps(records) + "\n")


def write_tables(plan: Mapping, seen: Sequence[tuple[Asked, Mapping[str, list[bool]]]], workdir: Path) -> str:
    """tables.md, which is returned, and tables.json with every figure."""
    found = defaultdict(list)
    for cell, shares in seen:
        of_prompts = tables.Cell(**{name: np.array(values) for name, values in shares.items()})
        found[cell.relation, cell.method, cell.direction].append(of_prompts)
    last = list(plan["methods"])[-1]
    compared = [WORD, PHRASE, *([DREAMBOOTH] if plan["dreambooth"] else []), *plan["methods"]]
    methods = [*compared, *plan["ablations"]]
    everything = list(plan["relations"])
    groups = plan["groups"] | ({"all": everything} if len(plan["groups"]) > 1 else {})
    records = tables.summary(found, groups, methods)
    parts = [
        "Percent of pictures, with 95% intervals. Where there is one relation or one seed, the interval is of it alone."
    ]
    for group, relations in groups.items():
        parts += [tables.markdown(records, group, compared)]
        if plan["ablations"]:
            parts += [tables.markdown(records, group, [last, *plan["ablations"]])]
        parts += [f"Paired differences in percentage points, {group}:\n"]
        parts += [tables.differences(found, relations, methods, last)]
    parts += [tables.by_relation(found, everything, methods, metric) for metric in ("both", "relation", "entities")]
    text = "\n".join(parts)
    files.write(workdir / "tables.json", json.dumps(records, indent=1) + "\n")
    files.write(workdir / "tables.md", text)
    return text


def evaluate(config: ConfigDict, workdir: str, *, quick: bool = False) -> str:
    """Does all that is not done yet, and returns the tables. ValueError where `workdir` holds another evaluation."""
    if files.is_remote(workdir):
        raise ValueError(f"--workdir={workdir}: an evaluation needs a folder of this machine")
    if "evaluation" not in config:
        raise ValueError("the config says nothing of what to compare: give one such as configs/evaluation.py")
    plan = make_plan(config, quick=quick)
    to_train = settle(training(config, plan))
    if to_train.exemplars != settings.DRAWN:
        raise ValueError(f"config.exemplars={to_train.exemplars!r}: the judge knows drawn scenes only, so say 'drawn'")
    place = Path(workdir).expanduser()
    described = json.dumps({"plan": plan, "training": dataclasses.asdict(to_train)}, indent=1) + "\n"
    path = place / "evaluation.json"
    with owned(epath.Path(place)):
        if path.is_file() and path.read_text() != described:
            raise ValueError(f"{workdir} holds another evaluation: give a new --workdir, or delete that one")
        files.write(path, described)
        return _evaluate(to_train, plan, place)


def _evaluate(to_train: Settings, plan: Mapping, place: Path) -> str:
    """`evaluate` in a folder that is this evaluation's."""
    rows = trained_rows(to_train, place / "training")
    runs = list(settings.each_run(to_train).values())
    placeholders = dict.fromkeys(PLACEHOLDERS, to_train.rows_per_token)
    model = load_model(to_train.model, placeholders, to_train.precision, variant=Variant.of(to_train))
    single_words = best_words(model, to_train, plan, place / "words.json")
    asked = list(cells(plan, runs, rows, single_words))
    seen = [judge_cell(model, to_train, plan, cell, place) for cell in tqdm(asked, "cells", smoothing=0)]
    write_sheets(plan, asked, runs, place)
    return write_tables(plan, list(zip(asked, seen, strict=True)), place)
