"""Compares methods: trains, draws and scores cell by cell, and writes tables.

A cell is one relation, method, seed and direction. Each finished cell is stored at once, so a stopped evaluation can be
resumed, and further seeds, methods and relations can be added later. The evaluation's folder then contains:

    cells.jsonl                          the scores of each cell, see cells.py
    tables.md, tables.json, tables.csv   tables of all cells in cells.jsonl
    sheets/<relation>.png                contact sheets with the methods side by side
    pictures/, pictures.json, exemplars/ for the user study
    training/<job>/<run>                 the folder of each run, with its learned words
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from reversion_jax.config import Settings
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.evaluation import by_clip, cells, estimate, judged, sheets, tables
from reversion_jax.evaluation import plan as plans
from reversion_jax.evaluation.cells import CELLS, DREAMBOOTH, Asked, Scorer
from reversion_jax.evaluation.plan import Plan
from reversion_jax.inversion.prompts import PLACEHOLDERS
from reversion_jax.runs import folder
from reversion_jax.runs.owner import owned
from reversion_jax.runtime import files
from reversion_jax.training import loop
from reversion_jax.training.prepare import load_exemplars
from reversion_jax.weights.load import Model, load_model
from reversion_jax.weights.variant import Variant

_ABOVE = """Means with 95% intervals; shares of pictures in percent. Where there is one relation or one seed, an
interval says nothing about others.
"""


def _identity(run: Settings) -> str:
    """Returns the settings that a run's words depend on, as text."""
    return json.dumps(cells.settings_of(run), sort_keys=True)


def trained(workdir: Path) -> dict[str, Path]:
    """Returns the folder of each finished run, by the run's `_identity`."""
    found = {}
    for path in sorted(workdir.glob(f"training/*/*/{folder.CONFIG}")):
        run, _ = folder.read_settings(epath.Path(path.parent))
        if folder.rows_file(path.parent, run.steps).is_file():
            found[_identity(run)] = path.parent
    return found


def jobs(plan: Plan, todo: Sequence[Asked], workdir: Path) -> dict[Path, Settings]:
    """Returns the training jobs that cells need, by folder: one job for each seed and each set of shared settings."""
    needed = {_identity(cell.run) for cell in todo if cell.run and cell.method != DREAMBOOTH} - trained(workdir).keys()
    missing = {key: own for key, run in plan.runs.items() if (own := _identity(run)) in needed}
    together: defaultdict[str, list[plans.Key]] = defaultdict(list)
    for key in missing:
        together[json.dumps([key[2], plan.shared(key)])].append(key)
    found = {}
    for keys in together.values():
        # All runs of a job finish together. After a stop, the next evaluation makes a job of the same runs and name.
        digest = hashlib.sha256("".join(missing[key] for key in keys).encode()).hexdigest()[:8]
        found[workdir / "training" / f"seed{keys[0][2]}-{digest}"] = plan.job(keys)
    return found


def evaluate(
    config: ConfigDict,
    workdir: str,
    *,
    quick: bool = False,
    tables_only: bool = False,
    given: Collection[str] = (),
) -> str:
    """Trains, draws and scores the cells that are not finished yet; returns the tables and their paths, as text.

    workdir: folder of the evaluation.
    quick, given: see `plan.make`.
    tables_only: makes only the tables, from the cells that the folder contains.
    Raises ValueError or OSError if the config, the folder or a file cannot be used.
    """
    if files.is_remote(workdir):
        raise ValueError(f"--workdir={workdir}: an evaluation needs a folder of this machine")
    plan = plans.make(config, quick=quick, given=given)
    if not plan.clip and not plan.of_drawn:
        raise ValueError("a CLIP model scores the pictures: give it by --config.evaluation.clip=FOLDER_OR_HUB_ID")
    place = Path(workdir).expanduser()
    asked = list(cells.of_plan(plan))
    done = _done(plan, asked, place)
    if tables_only:
        if not done:
            raise ValueError(f"{place / CELLS} has none of the config's cells: run without --tables_only first")
        return f"{write_tables(plan, place)}\ntables: {place / 'tables.md'}"
    with owned(epath.Path(place)):
        todo = [cell for cell in asked if cell.key not in done]
        if todo:
            _fill(plan, todo, place)
        shown = {relation: _exemplars(plan, relation) for relation in plan.relations}
        sheets.write(plan, asked, shown, place)
        text = write_tables(plan, place)
    return f"{text}\ntables: {place / 'tables.md'}, pictures: {place / 'sheets'}"


def _done(plan: Plan, asked: Sequence[Asked], place: Path) -> set[cells.Key]:
    """Returns the keys of the finished cells. Raises ValueError if a finished cell was made with other settings."""
    done, kept, scorer = set(), cells.read(place / CELLS), _scorer_name(plan)
    for cell in asked:
        if cell.key not in kept:
            continue
        if kept[cell.key]["made_by"] != cells.made_by(plan, cell, scorer):
            raise ValueError(
                f"{place / CELLS} has {cell.name} with other settings, prompts or scores: give a new --workdir, or "
                "delete the line of this cell there"
            )
        done.add(cell.key)
    return done


def _exemplars(plan: Plan, relation: str) -> Exemplars:
    """Returns the exemplars of the relation's first run."""
    return load_exemplars(next(run for key, run in plan.runs.items() if key[0] == relation))


def _scorer_name(plan: Plan) -> str:
    """Returns a name for the scorer, which contains everything that the scores depend on."""
    return f"{plan.clip} of {plan.words[plans.NATURAL]}" if plan.clip else judged.NAME


def _scorer(plan: Plan) -> Scorer:
    if not plan.clip:
        return judged.score
    shown = {relation: _exemplars(plan, relation).images for relation in plan.relations}
    by = by_clip.load(plan.clip, shown, plan.words[plans.NATURAL])
    print(by.describe(), flush=True)
    return by


def _load(plan: Plan) -> Model:
    c = plan.training
    return load_model(c.model, dict.fromkeys(PLACEHOLDERS, c.rows_per_token), c.precision, variant=Variant.of(c))


def _fill(plan: Plan, todo: Sequence[Asked], place: Path) -> None:
    """Trains, draws and scores cells. Work that may fail comes first, and work that takes hours comes last."""
    scorer, name = _scorer(plan), _scorer_name(plan)
    to_train = jobs(plan, todo, place)
    print(describe(plan, todo, list(to_train.values())), flush=True)
    for where, job in to_train.items():
        loop.train(job, epath.Path(where))
    rows = {identity: folder.read(epath.Path(path)).rows for identity, path in trained(place).items()}
    model = _load(plan)
    with tqdm(total=_count(plan, todo), desc="pictures", unit="picture", smoothing=0, mininterval=1) as bar:
        for cell in todo:
            bar.set_postfix_str(cell.name)
            learned = rows[_identity(cell.run)] if cell.run and cell.method != DREAMBOOTH else None
            drawn = cells.draw(model, plan, cell, learned, place, bar.update)
            scores = scorer(cell.relation, plan.prompts[cell.relation], drawn)
            cells.write(place / CELLS, cell, cells.made_by(plan, cell, name), scores)


def _count(plan: Plan, todo: Sequence[Asked]) -> int:
    """Returns the number of pictures in the given cells."""
    return sum(len(plan.prompts[cell.relation]) * plan.images for cell in todo)


def describe(plan: Plan, todo: Sequence[Asked], to_train: Sequence[Settings]) -> str:
    """Returns a text about what will be trained and drawn, with an estimate of the time and the disk space."""
    count = _count(plan, todo)
    a_prompt = next(iter(plan.prompts.values()))[0].fill("and")
    a_picture = estimate.picture_cost(_load(plan), plan.training, a_prompt)
    lines = [f"draws       {len(todo)} cells, {count} pictures"]
    times = [f"{estimate.duration(count * a_picture.seconds)} of drawing"]
    if to_train:
        a_step = estimate.step_seconds(to_train[0]) / len(to_train[0].runs)
        all_steps = sum(len(job.runs) * job.steps for job in to_train)
        steps = " or ".join(str(steps) for steps in sorted({job.steps for job in to_train}))
        lines.insert(0, f"trains      {sum(len(job.runs) for job in to_train)} words, {steps} steps each")
        times.insert(0, f"{estimate.duration(all_steps * a_step)} of training")
    if fine_tuned := sum(cell.method == DREAMBOOTH for cell in todo):
        lines.append(f"fine-tunes  {fine_tuned} models by DreamBooth (their time is not in the estimate)")
    devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    lines.append(f"estimate    {' and '.join(times)} on {devices}, {count * a_picture.bytes / 1e9:.2f} GB of pictures")
    return "\n".join(lines)


def write_tables(plan: Plan, workdir: Path) -> str:
    """Writes tables.md, and tables.json and tables.csv with every number; returns the text of tables.md."""
    found: defaultdict[tables.Which, dict] = defaultdict(dict)
    for (relation, method, seed, direction), cell in cells.read(workdir / CELLS).items():
        found[relation, method, direction][seed] = cell["scores"]
    by = by_clip if plan.clip else judged
    compared = [*plan.words, *([DREAMBOOTH] if plan.dreambooth else []), *plan.methods]
    methods, last = [*compared, *plan.ablations], plan.methods[-1]
    groups = {**plan.groups, **({"all relations": plan.relations} if len(plan.groups) > 1 else {})}
    records = tables.summary(found, groups, methods, by.METRICS)
    parts = [_ABOVE]
    for group, relations in groups.items():
        parts.append(tables.markdown(records, group, compared, by.METRICS))
        if plan.ablations:
            parts.append(tables.markdown(records, group, [last, *plan.ablations], by.METRICS))
        parts += [f"Paired differences, {group}:\n", tables.differences(found, relations, methods, last, by.METRICS)]
    named = {metric.name: metric for metric in by.METRICS}
    parts += [tables.by_relation(found, plan.relations, methods, named[name]) for name in by.BY_RELATION]
    text = "\n".join(filter(None, parts))
    for name, content in (
        ("json", json.dumps(records, indent=1) + "\n"),
        ("csv", tables.as_csv(records)),
        ("md", text),
    ):
        files.write(workdir / f"tables.{name}", content)
    return text
