"""What an evaluation compares: relations, methods, seeds and prompts, read from a config's `evaluation`."""

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

Key = tuple[str, str, int]  # of a run: relation, method, seed

NATURAL = "natural words"
# A benchmark's prompts are 10 subjects by 10 objects. With this stride, one after the other changes both.
_STRIDE = 11


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared. Tables keep the order of the mappings."""

    training: Settings  # what all runs share, settled
    own: Mapping[Key, Mapping[str, Any]]  # what each run has of its own, by relation, method and seed
    relations: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]  # of relations, for the tables
    words: Mapping[str, Mapping[str, str]]  # a baseline's name -> what stands for each relation in its prompts
    turned: Mapping[str, str]  # natural words that name a relation from the object's side, where there are any
    methods: tuple[str, ...]
    ablations: tuple[str, ...]
    dreambooth: Recipe | None
    seeds: tuple[int, ...]  # of the training
    prompts: Mapping[str, tuple[RelationPrompt, ...]]  # of each relation
    images: int  # of each prompt
    clip: str  # the CLIP whose features score the pictures; "": the miniature's judge does
    of_drawn: bool  # whether exemplars and prompts are of the miniature's world

    @functools.cached_property
    def runs(self) -> dict[Key, Settings]:
        """The settings of each run, by relation, method and seed."""
        return {key: next(iter(settings.each_run(self.job([key])).values())) for key in self.own}

    def job(self, keys: Sequence[Key]) -> Settings:
        """The settings that train some runs in one program; they share what a program's runs have to share."""
        runs = tuple({name: value for name, value in self.own[key].items() if name in OF_RUN} for key in keys)
        return dataclasses.replace(self.training, runs=runs, **self.shared(keys[0]))

    def shared(self, key: Key) -> dict[str, Any]:
        """What a run has of its own that the other runs of its program must have as well."""
        return {name: value for name, value in self.own[key].items() if name not in OF_RUN}


def make(config: ConfigDict, *, quick: bool = False, given: Collection[str] = ()) -> Plan:
    """Reads config.evaluation. ValueError, OSError.

    quick: what config.evaluation.quick says replaces the rest, but for `given`, the settings that the user gave.
    """
    if "evaluation" not in config:
        raise ValueError("the config says nothing of what to compare: give one such as configs/evaluation.py")
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
    """The exemplar folder of each relation of a benchmark; nothing where exemplars are drawn. ValueError, OSError."""
    if place == settings.DRAWN:
        return {}
    if not Path(place).expanduser().is_dir():
        raise ValueError(
            f"no folder {place}: put the benchmark's exemplars there, a folder for each relation, or name another by "
            "--config.evaluation.benchmark=FOLDER"
        )
    folders = benchmark.relation_folders(Path(place).expanduser())
    if not all(isinstance(folder, Path) for folder in folders.values()):
        raise ValueError(f"config.evaluation.benchmark={place!r}: unpack the .zip in it, and give that folder")
    return {relation: str(folder) for relation, folder in folders.items()}


def _relations(e: Mapping[str, Any], folders: Mapping[str, str]) -> tuple[str, ...]:
    """The relations asked for, or all that the benchmark has. ValueError where one is missing."""
    known = scenes.RELATIONS if e["benchmark"] == settings.DRAWN else tuple(folders)
    asked = tuple(e["relations"]) or known
    if missing := [relation for relation in asked if relation not in known]:
        raise ValueError(
            f"config.evaluation.relations has {missing[0]!r}, but {e['benchmark']} has only {', '.join(known)}"
        )
    return asked


def _words(e: Mapping[str, Any], relations: Sequence[str]) -> dict[str, dict[str, str]]:
    """Each baseline's words for each relation; natural ones come first. ValueError where they are missing."""
    natural = {**WORDS, **PLAIN, **dict(e["natural_words"])}
    if missing := [relation for relation in relations if relation not in natural]:
        raise ValueError(
            f"no natural words for the relation {missing[0]!r}: give them, such as "
            f"--config.evaluation.natural_words=\"(('{missing[0]}', 'next to'),)\""
        )
    others = {name: {r: words for r, words in own if r in relations} for name, own in e["other_words"]}
    return {NATURAL: {relation: natural[relation] for relation in relations}, **others}


def _drawn_prompts(e: Mapping[str, Any], relations: Sequence[str]) -> dict[str, tuple[RelationPrompt, ...]]:
    """Prompts on pairs of entities that no picture of the miniature's training and no exemplar shows."""
    scenes_of = lambda relation: scenes.unseen_scenes(relation, e["prompts"], e["prompt_seed"])
    return {
        relation: tuple(
            RelationPrompt("{subject} {} {object}", str(s.subject), str(s.object)) for s in scenes_of(relation)
        )
        for relation in relations
    }


def _benchmark_prompts(e: Mapping[str, Any], relations: Sequence[str]) -> dict[str, tuple[RelationPrompt, ...]]:
    """The benchmark folder's prompts or, where it has none, the package's. ValueError where a relation has none."""
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
    """All templates, in an order whose beginnings have as many subjects and objects as they can."""
    count = len(templates)
    stride = _STRIDE if count % _STRIDE else 1
    return [templates[i * stride % count] for i in range(count)]
