"""Tests which relations, methods, seeds and prompts an evaluation compares, given its config and flags."""

import json
from pathlib import Path

import numpy as np
import pytest
from config_files import load

from reversion_jax.data import benchmark, exemplars
from reversion_jax.evaluation import cells, compare, plan
from reversion_jax.miniature import scenes
from reversion_jax.runtime.errors import Caution


def test_the_plan_for_the_miniature_model_has_all_relations_methods_and_prompts():
    full = plan.make(load("evaluation"))
    assert sorted(relation for group in full.groups.values() for relation in group) == sorted(scenes.RELATIONS)
    assert len(full.runs) == 12 * 6 * 3
    assert full.methods == ("Textual Inversion", "ReVersion", "Inv-ReVersion")
    assert full.words["natural words"]["hug"] == "holding around"
    assert all(len(prompts) == 100 for prompts in full.prompts.values())
    assert full.prompts["hug"][0].direct() == "{} <R> {}".format(*_unseen("hug"))


def _unseen(relation):
    scene = scenes.unseen_scenes(relation, 1, 99)[0]
    return scene.subject, scene.object


def test_every_cell_has_the_run_of_its_relation_method_and_seed():
    some = plan.make(load("evaluation"), quick=True)
    for (relation, method, seed), run in some.runs.items():
        assert (run.relation, run.seed) == (relation, seed)
        assert run.method == {"ReVersion": "reversion", "Textual Inversion": "textual_inversion"}.get(
            method, "inv_reversion"
        )
        assert (run.verb_weight == 0) == (method in ("ReVersion", "prepositions only"))
        assert (run.suppressor_sigma_px > 0) == (method not in ("ReVersion", "Textual Inversion", "without suppressor"))
    asked = list(cells.of_plan(some))
    assert len({cell.name for cell in asked}) == len({cell.key for cell in asked}) == len(asked)
    for cell in asked:
        if cell.run and cell.method != "DreamBooth":
            assert cell.run == some.runs[cell.relation, cell.method, cell.seed]
        if cell.direction == "inverse":
            assert cell.relation not in ("hug", "back2back")
            assert cell.words in ("<R-inv> <R>", some.turned.get(cell.relation))
    kinds = {(cell.method, cell.direction) for cell in asked if cell.relation == "hanging_from"}
    assert ("natural words", "inverse") in kinds
    assert ("DreamBooth", "direct") in kinds
    assert ("ReVersion", "inverse") not in kinds
    # Hugging is symmetric.
    assert {cell.direction for cell in asked if cell.relation == "hug"} == {"direct"}


def test_a_method_with_another_number_of_steps_trains_in_a_separate_job():
    """All runs of a job share one compiled program and therefore have the same number of steps."""
    config = load("evaluation")
    config.evaluation.ablations = (("longer", {"steps": 133}),)
    longer = plan.make(config, quick=True)
    assert {run.steps for (_, method, _), run in longer.runs.items() if method == "longer"} == {133}
    assert {run.steps for (_, method, _), run in longer.runs.items() if method != "longer"} == {100}
    jobs = compare.jobs(longer, list(cells.of_plan(longer)), Path("nowhere"))
    assert [(job.steps, len(job.runs)) for job in jobs.values()] == [(100, 9), (133, 3)]


def test_a_cell_for_the_inverse_direction_swaps_the_entities_of_the_prompt():
    prompts = plan.make(load("evaluation"), quick=True).prompts["hanging_from"][:1]
    turned = cells.Asked("hanging_from", "Inv-ReVersion", 0, "inverse", "<R-inv> <R>")
    first = prompts[0]
    assert turned.texts(prompts) == [f"{first.object} <R-inv> <R> {first.subject}"]


def test_a_quick_plan_is_smaller_but_keeps_values_that_the_user_gave():
    config = load("evaluation")
    quick = plan.make(config, quick=True)
    assert (quick.seeds, quick.relations) == ((0,), scenes.REPORTING)
    config.evaluation.seeds = (31,)
    quick = plan.make(config, quick=True, given={"evaluation.seeds": (31,)})
    assert (quick.seeds, quick.relations) == ((31,), scenes.REPORTING)
    assert len(quick.prompts["hug"]) == 32


def test_the_easy_evaluation_has_the_relations_for_reporting_and_exemplars_without_hatching():
    easy = plan.make(load("evaluation", "easy"))
    assert easy.groups == {"unnamed, reported": scenes.REPORTING}
    assert len(easy.runs) == 3 * 3 * 3
    assert {(run.num_exemplars, run.hatched) for run in easy.runs.values()} == {(8, False)}


@pytest.fixture
def folder(tmp_path):
    """A benchmark of the relations "hug" and "orbiting", with prompts only for "orbiting".

    The package does not know the relation "orbiting".
    """
    for relation in ("hug", "orbiting"):
        shown = np.zeros((2, 8, 8, 3), np.uint8)
        exemplars.write_folder(tmp_path / "benchmark" / relation, shown, [["moon {} planet"]] * 2)
    (tmp_path / "benchmark" / "scenarios.json").write_text(
        json.dumps({"orbiting": {"subjects": ["moon", "ring"], "objects": ["planet", "sun"]}})
    )
    return tmp_path / "benchmark"


def test_relations_and_prompts_come_from_the_benchmarks_folder(folder):
    """If the benchmark has no prompts for a relation, the package's prompts are used."""
    config = load("benchmark")
    config.model = "miniature"
    config.evaluation.update({"benchmark": str(folder), "natural_words": (("orbiting", "in orbit around"),)})
    found = plan.make(config)
    assert found.relations == ("hug", "orbiting")
    assert found.words["natural words"] == {"hug": "hugging", "orbiting": "in orbit around"}
    assert [p.direct() for p in found.prompts["orbiting"]] == [
        *("moon <R> planet", "ring <R> sun", "ring <R> planet", "moon <R> sun")
    ]
    ours = benchmark.read_prompts()["hug"]
    assert sorted(p.fill("{}") for p in found.prompts["hug"]) == sorted(ours)
    run = found.runs["hug", "Inv-ReVersion", 0]
    assert (run.exemplars, run.verb_weight) == (str(folder / "hug"), 0.8)
    assert found.groups == {"all relations": ("hug", "orbiting")}
    assert (found.images, found.dreambooth) == (10, None)


def test_the_first_ten_prompts_have_all_subjects_and_objects():
    templates = [f"s{i} {{}} o{k}" for i in range(10) for k in range(10)]
    first = plan.spread(templates)[:10]
    assert len({text.split()[0] for text in first}) == len({text.split()[-1] for text in first}) == 10
    assert sorted(plan.spread(templates)) == sorted(templates)
    assert sorted(plan.spread(templates[:22])) == sorted(templates[:22])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"relations": ("hug", "kiss")}, r"config.evaluation.relations has 'kiss', but .* has only hug, orbiting"),
        ({}, "no natural words for the relation 'orbiting': give them, such as"),
        ({"benchmark": "nowhere"}, "no folder nowhere: put the benchmark's exemplars there"),
    ],
)
def test_a_plan_that_does_not_fit_the_benchmark_is_refused_in_one_line(folder, changes, says):
    config = load("benchmark")
    config.model = "miniature"
    config.evaluation.update({"benchmark": str(folder)} | changes)
    with pytest.raises(ValueError, match=says) as error:
        plan.make(config)
    assert "\n" not in str(error.value)


def test_dreambooth_is_compared_only_on_request():
    assert load("benchmark").evaluation.dreambooth.to_dict() == {}
    assert load("benchmark", "dreambooth").evaluation.dreambooth.word == "sks"
    with pytest.raises(ValueError, match=r"unknown setting: use configs/benchmark\.py:dreambooth"):
        load("benchmark", "dreambeeth")


def test_a_truncated_line_of_cells_jsonl_loses_only_the_cell_of_that_line(tmp_path):
    path = tmp_path / "cells.jsonl"
    for seed in (0, 1, 2):
        cells.write(path, cells.Asked("hug", "ReVersion", seed, "direct", "<R>"), "hash", {"relation": [1.0, 0.25]})
        if seed == 1:
            path.write_bytes(path.read_bytes()[:-20])  # as if the process was killed while it wrote the line
    with pytest.warns(Caution, match="line 2 is damaged"):
        kept = cells.read(path)
    assert [key[2] for key in kept] == [0, 2]
    assert kept["hug", "ReVersion", 2, "direct"]["scores"] == {"relation": [1.0, 0.25]}
