"""Runs a whole evaluation with a tiny Stable Diffusion, a tiny CLIP, two relations and two training steps."""

import csv
import json

import numpy as np
import pytest
import tiny
import tiny_clip
import tiny_run
from config_files import load
from PIL import Image
from places import SHARED

from reversion_jax.data import exemplars
from reversion_jax.evaluation import cells, compare, estimate, plan
from reversion_jax.evaluation.user_study import sets
from reversion_jax.runs import folder
from reversion_jax.runtime.errors import Caution


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    shapes = json.loads((tiny_clip.RECORDED / "clip_shapes.json").read_text())
    return tiny_clip.write_folder(tmp_path_factory.mktemp("clip"), tiny.torch_weights(shapes, seed=3)["clip"])


@pytest.fixture(scope="module")
def config(small, clip, tmp_path_factory):
    """The config configs/benchmark.py for the tiny models, with two relations of three exemplars each."""
    place = tmp_path_factory.mktemp("benchmark")
    rng = np.random.default_rng(0)
    for relation in ("hug", "on"):
        shown = rng.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
        exemplars.write_folder(place / "exemplars" / relation, shown, [["a cat {} dog"], ["cat {} dog"], ["b {} c"]])
    c = load("benchmark")
    own = tiny_run.inputs(place / "run", small)
    c.update({name: value for name, value in own.items() if name not in ("relation", "exemplars")})
    c.steps, c.checkpoint_every_steps, c.learning_rate = 2, 2, 0.01
    e = c.evaluation
    e.benchmark, e.clip, e.prompts, e.images, e.seeds = str(place / "exemplars"), str(clip), 3, 2, (0,)
    e.turned, e.methods, e.ablations = (("on", "beneath"),), e.methods[1:], e.ablations[1:2]
    e.other_words, e.quick = (("one word", (("hug", "near"),)),), {"prompts": 2, "seeds": (0,)}
    e.dreambooth = {"steps": 1, "batch_size": 1, "checkpoints": 1, "word": "on"}
    return c


@pytest.fixture(scope="module")
def evaluated(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluation")
    return workdir, compare.evaluate(config, str(workdir))


def changed(config, **values):
    config = config.copy_and_resolve_references()
    config.evaluation.update(values)
    return config


def test_every_cell_of_the_comparison_is_drawn_scored_and_listed_in_tables(evaluated):
    workdir, text = evaluated
    kept = cells.read(workdir / "cells.jsonl")
    trained = ("ReVersion", "Inv-ReVersion", "prepositions only", "DreamBooth")
    asked = {(relation, method, 0, "direct") for relation in ("hug", "on") for method in trained}
    asked |= {("on", method, 0, "inverse") for method in trained[1:3]}
    asked |= {(relation, "natural words", None, "direct") for relation in ("hug", "on")}
    asked |= {("on", "natural words", None, "inverse"), ("hug", "one word", None, "direct")}
    assert set(kept) == asked
    assert {len(values) for cell in kept.values() for values in cell["scores"].values()} == {3}
    assert "order_right" in kept["on", "ReVersion", 0, "direct"]["scores"]
    assert "order_right" not in kept["hug", "ReVersion", 0, "direct"]["scores"]
    assert len(list((workdir / "pictures").rglob("*.png"))) == 2 * 3 * len(asked)
    assert text.startswith((workdir / "tables.md").read_text())
    for row in (
        "natural words | 2 | 1",
        "ReVersion | 2 | 1",
        "Inv-ReVersion, turned round | 1 | 1",
        "DreamBooth | 2 | 1",
    ):
        assert f"| {row} |" in text
    assert "| relation, classified | natural words | one word | DreamBooth | ReVersion | Inv-ReVersion |" in text
    assert "| minus Inv-ReVersion |" in text
    rows = list(csv.DictReader((workdir / "tables.csv").read_text().splitlines()))
    records = json.loads((workdir / "tables.json").read_text())
    assert [float(row["mean"]) for row in rows] == [record["mean"] for record in records]
    assert not (workdir / "dreambooth").exists()
    with Image.open(workdir / "sheets" / "hug.png") as sheet:
        assert sheet.size[0] > 500


def test_methods_draw_different_pictures_from_the_same_noise(evaluated):
    workdir, _ = evaluated

    def picture(name, file="000-0"):
        return np.asarray(Image.open(workdir / "pictures" / "hug" / name / f"{file}.png")).astype(int)

    ours, theirs = picture("inv_reversion-seed0-direct"), picture("reversion-seed0-direct")
    assert (picture("dreambooth-seed0-direct") != ours).any()
    other_noise = picture("reversion-seed0-direct", "000-1")
    assert 0 < np.abs(ours - theirs).mean() < np.abs(theirs - other_noise).mean()


def test_the_user_study_can_read_an_evaluation(evaluated):
    workdir, _ = evaluated
    found = sets.read_pictures(workdir)
    methods = ["natural words", "ReVersion", "Inv-ReVersion"]
    assert len(sets.choose(found, methods, 2, 0)) == 4
    # Six methods drew "hug" and five methods drew "on", each with three prompts and two pictures of each prompt.
    assert len(found) == (6 + 5) * 3 * 2
    taught = sets.read_exemplars(workdir, "hug")
    assert [template for _, template in taught] == ["a cat {} dog", "cat {} dog", "b {} c"]


def test_finished_cells_of_the_comparison_are_not_drawn_again(config, evaluated, monkeypatch):
    """A cell is one relation, method, seed and direction.

    A cell whose line in cells.jsonl is missing or damaged is drawn again.
    """
    workdir, text = evaluated
    path = workdir / "cells.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:40] + "\n" + lines[-1])
    drawn, draw = [], cells.draw
    monkeypatch.setattr(cells, "draw", lambda *own: drawn.append(own[2]) or draw(*own))
    monkeypatch.setattr(compare.loop, "train", None)
    with pytest.warns(Caution, match=f"line {len(lines) - 1} is damaged: its cell will be drawn again"):
        assert compare.evaluate(config, str(workdir)) == text
    assert len(drawn) == 1
    path.write_text(whole)
    # With `tables_only`, the evaluation draws nothing and reads only the file cells.jsonl.
    assert compare.evaluate(config, str(workdir), tables_only=True).startswith((workdir / "tables.md").read_text())
    assert len(drawn) == 1


def test_tables_can_be_made_from_a_copy_of_cells_jsonl(config, evaluated, tmp_path):
    workdir, _ = evaluated
    (tmp_path / "cells.jsonl").write_bytes((workdir / "cells.jsonl").read_bytes())
    compare.evaluate(config, str(tmp_path), tables_only=True)
    assert (tmp_path / "tables.md").read_text() == (workdir / "tables.md").read_text()


def test_further_seeds_are_added_to_an_evaluation(config, evaluated, monkeypatch):
    workdir, _ = evaluated
    trained, train = [], compare.loop.train
    monkeypatch.setattr(compare.loop, "train", lambda job, where: trained.append(job) or train(job, where))
    more = changed(config, seeds=(2,), dreambooth={}, turned=())
    text = compare.evaluate(more, str(workdir))
    assert len(trained) == 1
    assert {run["seed"] for run in trained[0].runs} == {2}
    assert "| ReVersion | 2 | 2 |" in text
    (of_hug,) = workdir.glob("training/seed2-*/hug-reversion-*")
    assert folder.read(of_hug).settings.seed == 2


def test_an_evaluation_with_other_settings_in_the_same_folder_is_refused(config, evaluated):
    workdir, _ = evaluated
    for other in (changed(config, prompts=2), changed(config, natural_words=(("hug", "kissing"), ("on", "on")))):
        with pytest.raises(ValueError, match=r"cells.jsonl has .* with other settings, prompts or scores"):
            compare.evaluate(other, str(workdir))
    other = config.copy_and_resolve_references()
    other.learning_rate = 0.5
    with pytest.raises(ValueError, match="has hug/reversion-seed0-direct with other settings"):
        compare.evaluate(other, str(workdir))


def test_the_work_and_the_cost_of_an_evaluation_are_described_before_it_starts(config, monkeypatch):
    monkeypatch.setattr(compare, "_load", lambda plan: None)
    monkeypatch.setattr(estimate, "picture_cost", lambda *_: estimate.PictureCost(0.5, 2_000_000))
    monkeypatch.setattr(estimate, "step_seconds", lambda job: 12.0)
    full = plan.make(config)
    todo = list(cells.of_plan(full))
    jobs = compare.jobs(full, todo, compare.Path("nowhere"))
    assert [len(job.runs) for job in jobs.values()] == [6]
    said = compare.describe(full, todo, list(jobs.values())).splitlines()
    assert said[0] == "trains      6 words, 2 steps each"
    assert said[1] == f"draws       {len(todo)} cells, {6 * len(todo)} pictures"
    assert said[2].startswith("fine-tunes  2 models")
    assert said[3].startswith(f"estimate    24 s of training and {3 * len(todo)} s of drawing on 1 × cpu")
    assert said[3].endswith(f", {6 * len(todo) * 2e6 / 1e9:.2f} GB of pictures")


def test_the_cost_of_training_steps_and_pictures_is_measured(config):
    full = plan.make(changed(config, seeds=(0,), methods=(("ReVersion", {"method": "reversion"}),), ablations=()))
    assert 0 < estimate.step_seconds(full.job(list(full.own))) < 60
    cost = estimate.picture_cost(compare._load(full), full.training, "a cat")
    assert 0 < cost.seconds < 60
    assert 500 < cost.bytes < 1200  # the size of a PNG of 16 by 16 px of noise
    assert [estimate.duration(s) for s in (40, 700, 10000)] == ["40 s", "12 min", "2.8 h"]


@pytest.mark.long
def test_an_evaluation_runs_on_real_exemplars(config, sd_tiny, tmp_path):
    """Uses the benchmark's three relations in the folder shared/, if this folder exists beside the repository."""
    if not (SHARED / "exemplars").is_dir():
        pytest.skip("no shared/exemplars beside the repository")
    real = changed(config, benchmark=str(SHARED / "exemplars"), methods=(("Inv-ReVersion", {}),), ablations=())
    real = changed(real, dreambooth={}, seeds=(0,), prompts=1, images=1, turned=(), other_words=())
    real.model = str(sd_tiny / "torch_sd_tiny")
    text = compare.evaluate(real, str(tmp_path))
    for relation in ("carved_by", "inside", "painted_on"):
        assert f"| {relation} |" in text
        assert (tmp_path / "sheets" / f"{relation}.png").is_file()


def test_bad_input_for_an_evaluation_is_refused_in_one_line(config, tmp_path):
    for given, workdir, message in (
        (changed(config, clip=""), tmp_path / "run", "by --config.evaluation.clip=FOLDER_OR_HUB_ID"),
        (changed(config, clip="nowhere/"), tmp_path / "run", "nowhere"),
        (config, "gs://bucket/folder", "--workdir=gs://bucket/folder: an evaluation needs a folder of this machine"),
        (load("hug"), tmp_path / "run", "the config does not say what to compare"),
    ):
        with pytest.raises((ValueError, OSError), match=message) as error:
            compare.evaluate(given, str(workdir))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="has none of the config's cells"):
        compare.evaluate(config, str(tmp_path), tables_only=True)
