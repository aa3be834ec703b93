"""A tiny evaluation from end to end: two relations, two methods, two steps."""

import numpy as np
import pytest
from config_files import load
from PIL import Image

from reversion_jax import config as settings
from reversion_jax.evaluation import cells, compare
from reversion_jax.evaluation.user_study import sets
from reversion_jax.runs import folder
from reversion_jax.training import prepare


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    c = load("evaluation")
    for name, words in (("prepositions", "on\nin\nbeside\nover"), ("verbs", "holding\ncut\ntied\nmeeting")):
        path = tmp_path_factory.mktemp("words") / name
        path.write_text(words)
        c[name] = str(path)
    c.steps, c.checkpoint_every_steps, c.sample_steps, c.samples_at_once, c.batch_size = 2, 2, 2, 4, 4
    c.sample_batch = 4
    c.evaluation.methods = c.evaluation.methods[1:]
    c.evaluation.ablations = (("prepositions only", {"verb_weight": 0.0}),)
    c.evaluation.prompt_seed = 281  # of whose first four pairs two are the same
    c.evaluation.dreambooth.steps, c.evaluation.dreambooth.batch_size = 2, 4
    c.evaluation.quick = {"relations": ("hug", "hanging_from"), "seeds": (0, 1), "prompts": 4, "word_prompts": 2}
    return c


@pytest.fixture(scope="module")
def evaluated(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluation")
    return workdir, compare.evaluate(config, str(workdir), quick=True)


def test_every_cell_is_drawn_judged_and_tabled(evaluated):
    workdir, text = evaluated
    assert (workdir / "tables.md").read_text() == text
    cells = sorted(str(path.relative_to(workdir / "cells"))[:-5] for path in (workdir / "cells").rglob("*.json"))
    trained = ("inv_reversion", "prepositions_only", "reversion", "dreambooth")
    learned = [f"{m}-seed{s}-direct" for m in trained for s in (0, 1)]
    turned = [f"{m}-seed{s}-inverse" for m in ("inv_reversion", "prepositions_only") for s in (0, 1)]
    by_words = ["best_single_word-seed0-direct", "describing_phrase-seed0-direct"]
    # Hugging looks the same both ways, and "hanging" has a phrase for either.
    expected = {"hug": [*learned, *by_words], "hanging_from": [*learned, *by_words, *turned]}
    expected["hanging_from"].append("describing_phrase-seed0-inverse")
    assert cells == sorted(f"{relation}/{name}" for relation, names in expected.items() for name in names)
    assert len(list((workdir / "pictures").rglob("*.png"))) == 4 * len(cells)
    for row in (
        "best single word | 2 | 1",
        "ReVersion | 2 | 2",
        "Inv-ReVersion, turned round | 1 | 2",
        "DreamBooth | 2 | 2",
    ):
        assert f"| {row} |" in text
    assert not (workdir / "dreambooth").exists()
    assert "| minus Inv-ReVersion |" in text
    with Image.open(workdir / "sheets" / "hug.png") as sheet:
        assert sheet.size[0] > 500


def test_methods_differ_and_share_their_noise(evaluated):
    workdir, _ = evaluated
    picture = lambda name: np.asarray(Image.open(workdir / "pictures" / "hug" / name / "000.png")).astype(int)
    ours, theirs = picture("inv_reversion-seed0-direct"), picture("reversion-seed0-direct")
    assert (picture("dreambooth-seed0-direct") != ours).any()
    other_noise = np.asarray(Image.open(workdir / "pictures/hug/reversion-seed0-direct/001.png")).astype(int)
    assert 0 < np.abs(ours - theirs).mean() < np.abs(theirs - other_noise).mean()


def test_a_study_reads_it(evaluated):
    workdir, _ = evaluated
    found = sets.read_pictures(workdir)
    assert len(found) == 2 * 6 * 3  # relations, methods, different prompts
    methods = ["describing phrase", "ReVersion", "Inv-ReVersion"]
    assert len(sets.choose(found, methods, 2, 0)) == 4
    assert len(sets.read_exemplars(workdir, "hug")) == 4


def test_what_is_done_is_not_done_again(config, evaluated, monkeypatch):
    workdir, text = evaluated
    for name in ("inv_reversion-seed0-direct", "dreambooth-seed1-direct"):
        (workdir / "cells" / "hug" / f"{name}.json").unlink()
    drawn, draw = [], cells.draw
    monkeypatch.setattr(cells, "draw", lambda *given, **own: drawn.append(given[2]) or draw(*given, **own))
    monkeypatch.setattr(compare.loop, "train", None)
    assert compare.evaluate(config, str(workdir), quick=True) == text
    assert len(drawn) == 2
    config = config.copy_and_resolve_references()
    config.learning_rate = 0.5
    with pytest.raises(ValueError, match="holds another evaluation: give a new --workdir"):
        compare.evaluate(config, str(workdir), quick=True)


def test_runs_are_those_of_the_cells(config):
    plan = compare.make_plan(config, quick=True)
    to_train = compare.training(config, plan)
    runs = to_train.runs
    assert [(run["relation"], run.get("method"), run["verb_weight"], run["seed"]) for run in runs[:6]] == [
        *(("hug", "reversion", 0.8, seed) for seed in (0, 1)),
        *(("hug", None, 0.8, seed) for seed in (0, 1)),
        *(("hug", None, 0.0, seed) for seed in (0, 1)),
    ]
    settled = list(settings.each_run(prepare.settle(to_train)).values())
    rows = np.arange(len(runs))
    for cell in cells.cells(plan, settled, rows, dict.fromkeys(plan["relations"], "on")):
        if cell.fine_tuned_on is not None:
            assert (cell.fine_tuned_on.relation, cell.fine_tuned_on.seed) == (cell.relation, cell.seed)
        if cell.rows is not None:
            run = settled[cell.rows]
            assert (run.relation, run.seed) == (cell.relation, cell.seed)
            assert (cell.method == "ReVersion") == (run.method == "reversion")
            assert (cell.method == "prepositions only") == (run.method == "inv_reversion" and run.verb_weight == 0)


def test_the_full_plan_covers_the_world():
    c = load("evaluation")
    plan = compare.make_plan(c, quick=False)
    assert sorted(relation for group in plan["groups"].values() for relation in group) == sorted(plan["relations"])
    assert len(compare.training(c, plan).runs) == 12 * 6 * 3
    assert list(plan["methods"]) == ["Textual Inversion", "ReVersion", "Inv-ReVersion"]


def test_the_easy_setting_has_the_reported_relations_and_clean_exemplars():
    c = load("evaluation", "easy")
    plan = compare.make_plan(c, quick=False)
    assert list(plan["groups"]) == ["unnamed, reported"]
    runs = settings.each_run(prepare.settle(compare.training(c, plan)))
    assert len(runs) == 3 * 3 * 3
    assert {(run.num_exemplars, run.hatched) for run in runs.values()} == {(8, False)}


def test_quick_is_a_part_of_what_is_asked_for():
    c = load("evaluation", "easy")
    c.evaluation.relations = (("hug", {}),)
    assert list(compare.make_plan(c, quick=True)["relations"]) == ["hug"]
    c.evaluation.relations = (("on", {}),)
    with pytest.raises(ValueError, match=r"--quick: .* has none of"):
        compare.make_plan(c, quick=True)
    c = load("evaluation", "tuning")
    assert list(compare.make_plan(c, quick=True)["relations"]) == ["wrapped_in", "back2back"]


def test_trained_runs_are_runs_like_others(config, evaluated):
    """Each is exported and drawn with by its own folder."""
    workdir, _ = evaluated
    to_train = prepare.settle(compare.training(config, compare.make_plan(config, quick=True)))
    names = list(settings.each_run(to_train))
    assert len(names) == 2 * 3 * 2  # relations, methods with ablation, seeds
    rows = compare.trained_rows(to_train, workdir / "training")
    for name, own in zip(names, rows, strict=True):
        run = folder.read(workdir / "training" / name)
        assert run.step == 2
        np.testing.assert_array_equal(run.rows, own)


def test_bad_input_is_one_clear_line(config, tmp_path):
    for changes, workdir, message in (
        ({"exemplars": "somewhere"}, tmp_path / "run", "config.exemplars='somewhere': the judge knows drawn scenes"),
        ({}, "gs://bucket/folder", "--workdir=gs://bucket/folder: an evaluation needs a folder of this machine"),
    ):
        mine = config.copy_and_resolve_references()
        mine.update(changes)
        with pytest.raises(ValueError, match=message) as error:
            compare.evaluate(mine, str(workdir))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the config says nothing of what to compare"):
        compare.evaluate(load("hug"), str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())
