"""Reads from a config's `evaluation` what to compare: relations, methods, seeds and prompts."""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from reversion_jax import config as settings
from reversion_jax.config import OF_RUN, Settings
from reversion_jax.data import benchmark
from reversion_jax.data.relations import PLAIN, WORDS
from reversion_jax.inversion.prompts import RelationPrompt, parse
from reversion_jax.miniature import scenes
from reversion_jax.training.dreambooth import Recipe
from reversion_jax.training.prepare import settle

Key = tuple[str, str, int]  # identifies a run: relation, method, seed

NATURAL = "natural words"
# The benchmark's prompts combine 10 subjects with 10 objects. Two prompts that are 11 places apart in the benchmark's
# list differ in subject and object.
_STRIDE = 11


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to compare. The tables keep the order of the mappings in the plan."""

    training: Settings  # the complete settings that all runs share
    own: Mapping[Key, Mapping[str, Any]]  # the settings of each run that differ from `training`
    relations: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]  # groups of relations for the tables, by name
    words: Mapping[str, Mapping[str, str]]  # for each baseline of plain words, its words for each relation
    turned: Mapping[str, str]  # natural words for the inverse direction of a relation; some relations have none
    methods: tuple[str, ...]
    ablations: tuple[str, ...]
    dreambooth: Recipe | None  # None: do not compare with DreamBooth
    seeds: tuple[int, ...]  # seeds of the training
    prompts: Mapping[str, tuple[RelationPrompt, ...]]  # the prompts of each relation
    images: int  # number of images of each prompt
    clip: str  # the CLIP model that scores the pictures; "": miniature/judge.py scores them
    of_drawn: bool  # whether exemplars and prompts are the drawn scenes of miniature/scenes.py

    @functools.cached_property
    def runs(self) -> dict[Key, Settings]:
        """The complete settings of each run, by relation, method and seed."""
        return {key: next(iter(settings.each_run(self.job([key])).values())) for key in self.own}

    def job(self, keys: Sequence[Key]) -> Settings:
        """Returns the settings of a job that trains the given runs together. These runs must have the same `shared`."""
        runs = tuple({name: value for name, value in self.own[key].items() if name in OF_RUN} for key in keys)
        return dataclasses.replace(self.training, runs=runs, **self.shared(keys[0]))

    def shared(self, key: Key) -> dict[str, Any]:
        """Returns those settings of a run in `own` that must be the same for all runs of a job."""
        return {name: value for name, value in self.own[key].items() if name not in OF_RUN}


def make(config: ConfigDict, *, quick: bool = False, given: Collection[str] = ()) -> Plan:
    """Reads config.evaluation. Raises ValueError or OSError if a setting or a file of the benchmark cannot be used.

    quick: use the values in config.evaluation.quick, except for settings in `given`.
    given: names of the settings that the user gave as flags.
    """
    if "evaluation" not in config:
        raise ValueError("the config does not say what to compare: give one such as configs/evaluation.py")
    e = config.evaluation.to_dict()
    of_quick = e.pop("quick")
    if quick:
        e |= {name: value for name, value in of_quick.items() if f"evaluation.{name}" not in given}
    of_drawn = e["benchmark"] == settings.DRAWN
    folders = _folders(e["benchmark"])
    relations = _relations(e, folders)
    methods, ablations = dict(e["methods"]), dict(e["ablations"])
    own_settings: dict[Key, dict[str, Any]] = {}
    for relation, (method, of_method), seed in itertools.product(relations, (methods | ablations).items(), e["seeds"]):
        own = {"relation": relation, "exemplars": folders.get(relation, settings.DRAWN)}
        own_settings[relation, method, seed] = own | dict(e["own"]).get(relation, {}) | of_method | {"seed": seed}
    groups = {name: tuple(r for r in group if r in relations) for name, group in e["groups"]}
    return Plan(
        training=_training(config),
        own=own_settings,
        relations=relations,
        groups={name: group for name, group in groups.items() if group} or {"all relations": relations},
        words=_words(e, relations),
        turned={relation: words for relation, words in e["turned"] if relation in relations},
        methods=tuple(methods),
        ablations=tuple(ablations),
        dreambooth=Recipe(**e["dreambooth"]) if e["dreambooth"] else None,
        seeds=tuple(e["seeds"]),
        prompts=_drawn_prompts(e, relations) if of_drawn else _benchmark_prompts(e, relations),
        images=e["images"],
        clip=e["clip"],
        of_drawn=of_drawn,
    )


def _training(config: ConfigDict) -> Settings:
    c = config.copy_and_resolve_references().unlock()
    del c.evaluation
    return settle(c)


def _folders(place: str) -> dict[str, str]:
    """Returns the exemplar folder of each relation in a benchmark's folder; {} if exemplars are drawn scenes.

    Raises ValueError or OSError if there is no such folder.
    """
    if place == settings.DRAWN:
        return {}
    if not Path(place).expanduser().is_dir():
        raise ValueError(
            f"no folder {place}: put the benchmark's exemplars there, a folder for each relation, or give another "
            "folder by --config.evaluation.benchmark=FOLDER"
        )
    folders = benchmark.relation_folders(Path(place).expanduser())
    if not all(isinstance(folder, Path) for folder in folders.values()):
        raise ValueError(f"config.evaluation.benchmark={place!r}: unpack the .zip in it, and give that folder")
    return {relation: str(folder) for relation, folder in folders.items()}


def _relations(e: Mapping[str, Any], folders: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the config's relations or, if it names no relations, all relations of the benchmark.

    Raises ValueError if the benchmark lacks a relation.
    """
    known = scenes.RELATIONS if e["benchmark"] == settings.DRAWN else tuple(folders)
    asked = tuple(e["relations"]) or known
    if missing := [relation for relation in asked if relation not in known]:
        raise ValueError(
            f"config.evaluation.relations has {missing[0]!r}, but {e['benchmark']} has only {', '.join(known)}"
        )
    return asked


def _words(e: Mapping[str, Any], relations: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns each baseline's words for each relation, natural words first.

    Raises ValueError if a relation has no natural words.
    """
    natural = {**WORDS, **PLAIN, **dict(e["natural_words"])}
    if missing := [relation for relation in relations if relation not in natural]:
        raise ValueError(
            f"no natural words for the relation {missing[0]!r}: give them, such as "
            f"--config.evaluation.natural_words=\"(('{missing[0]}', 'next to'),)\""
        )
    others = {name: {r: words for r, words in own if r in relations} for name, own in e["other_words"]}
    return {NATURAL: {relation: natural[relation] for relation in relations}, **others}


def _drawn_prompts(e: Mapping[str, Any], relations: Sequence[str]) -> dict[str, tuple[RelationPrompt, ...]]:
    """Returns prompts with pairs of entities that neither the miniature model's training nor the exemplars show."""
    scenes_of = lambda relation: scenes.unseen_scenes(relation, e["prompts"], e["prompt_seed"])
    return {
        relation: tuple(
            RelationPrompt("{subject} {} {object}", str(s.subject), str(s.object)) for s in scenes_of(relation)
        )
        for relation in relations
    }


def _benchmark_prompts(e: Mapping[str, Any], relations: Sequence[str]) -> dict[str, tuple[RelationPrompt, ...]]:
    """Returns each relation's prompts from the benchmark's folder or, if it has no prompts, from the package.

    Raises ValueError if there are no prompts for a relation.
    """
    file = benchmark.find_prompts(Path(e["benchmark"]).expanduser())
    ours = benchmark.read_prompts()
    theirs = benchmark.read_prompts(file) if file else {}
    found = {}
    for relation in relations:
        templates = theirs.get(relation) or ours.get(relation)
        if not templates:
            where = (
                f"{file} has" if file else f"there is no {benchmark.PROMPT_FILES[0]} in {e['benchmark']}, and we have"
            )
            raise ValueError(f"{where} no prompts for the relation {relation!r}: add them there")
        prompts = [parse(template) for template in spread(templates)[: e["prompts"]]]
        if faults := [prompt.fault for prompt in prompts if prompt.fault]:
            raise ValueError(f"prompts of {relation}: {faults[0]}")
        found[relation] = tuple(prompts)
    return found


def spread(templates: Sequence[str]) -> list[str]:
    """Reorders templates so that the first templates have as many different subjects and objects as possible."""
    count = len(templates)
    stride = _STRIDE if count % _STRIDE else 1
    return [templates[i * stride % count] for i in range(count)]
