"""Tests jobs of several runs. Each run equals the same run trained alone, and has its own run folder."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_run import changed

from reversion_jax import config as settings
from reversion_jax.data import exemplars
from reversion_jax.runs import folder, history
from reversion_jax.training import loop, prepare, report

NAMES = ["hug", "reversion-seed1", "seed2"]


@pytest.fixture(scope="module")
def several(config, tmp_path_factory):
    """The config of three runs, which differ in exemplars, method, seed, filter, learning rate and initialiser."""
    place = tmp_path_factory.mktemp("other") / "exemplars"
    shown = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    exemplars.write_folder(place, shown, [["dog {} cat"]] * 2)
    runs = (
        {"relation": "hug", "exemplars": str(place), "preview_prompts": ("dog <R> cat",)},
        {"method": "reversion", "seed": 1},
        {"seed": 2, "suppressor_sigma_px": 1.5, "learning_rate": 0.02, "initialiser": "top"},
    )
    shared = {"steps": 15, "checkpoint_every_steps": 6, "preview_every_steps": 15, "negatives": "vocabulary"}
    return changed(config, **shared, steps_per_dispatch=18, runs=runs, samples_at_once=4)


@pytest.fixture(scope="module")
def together(several, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together") / "job"
    return workdir, loop.train(several, workdir)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_run_trained_together_with_other_runs_equals_the_run_alone(several, together, number, tmp_path):
    workdir, rows = together
    alone = loop.train(changed(several, runs=(), **several.runs[number]), tmp_path / "run")
    assert (alone.shape, rows.shape) == ((1, 2, 32), (3, 2, 32))
    np.testing.assert_allclose(rows[number], alone[0], atol=1e-5)
    assert np.abs(rows - alone).max() > 1e-2  # the other runs have other rows
    records = [history.read(place / "metrics.jsonl") for place in (workdir / NAMES[number], tmp_path / "run")]
    losses = [[record["denoising"] for record in of_run] for of_run in records]
    np.testing.assert_allclose(*losses, atol=1e-4)
    assert records[0][-1]["nearest"][0][0] == records[1][-1]["nearest"][0][0]


def test_each_run_of_a_job_has_a_complete_run_folder(several, together):
    workdir, rows = together
    assert {path.name for path in workdir.iterdir()} == {"checkpoints", "config.json", "startup.json", *NAMES}
    for name, row in zip(NAMES, rows, strict=True):
        left = {path.name for path in (workdir / name).iterdir()}
        assert left == {
            *("config.json", "rows", "rows.safetensors", "metrics.jsonl"),
            *("previews", "contact_sheet.png", "training.png"),
        }
        run = folder.read(workdir / name)
        np.testing.assert_array_equal(run.rows, row)
        assert run.step == 15
        assert not run.settings.runs
    assert folder.read(workdir / NAMES[1]).settings.method == "reversion"
    with pytest.raises(ValueError, match=f"holds 3 runs: give the folder of one of them, such as {NAMES[0]}"):
        folder.read(workdir)


def test_progress_is_reported_for_every_run(several, tmp_path):
    """Of three runs, one call of the compiled function trains a third of steps_per_dispatch steps."""
    told = []
    rows = loop.train(several, tmp_path / "job", on_progress=told.append, should_stop=lambda: bool(told))
    assert [progress.step for progress in told] == [6]
    assert rows.shape == (3, 2, 32)
    assert list(told[0].runs) == NAMES
    for name, newest in told[0].runs.items():
        assert newest == history.read(tmp_path / "job" / name / "metrics.jsonl")[-1]
        assert newest["step"] == 6
        assert len(newest["nearest"]) == 10


def test_a_resumed_job_of_several_runs_equals_an_uninterrupted_job(several, together, tmp_path):
    loop.train(changed(several, steps=6), tmp_path / "job")
    np.testing.assert_array_equal(loop.train(several, tmp_path / "job"), together[1])
    records = history.read(tmp_path / "job" / NAMES[1] / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 16))
    with pytest.raises(ValueError, match="another runs"):
        loop.train(changed(several, runs=several.runs[:2]), tmp_path / "job")


def test_samples_at_once_changes_rows_only_by_rounding(several, together, tmp_path):
    at_once = loop.train(changed(several, samples_at_once=6), tmp_path / "job")
    np.testing.assert_allclose(at_once, together[1], atol=1e-5)


@pytest.mark.long
def test_added_inverse_prompts_work_for_several_runs(config, tmp_path):
    """Only one of two runs has inverse prompts. Resuming changes nothing, and each run equals the run trained alone."""
    runs = ({"seed": 1}, {"relation": "under", "method": "reversion"})
    # With the usual epsilon, Adam would amplify gradients that are so small that they are only rounding errors.
    readings = {"inverse_prompts": "add", "exemplar_draws": "epochs", "samples_at_once": 3, "adam_eps": 1e-3}
    both = changed(config, **readings, steps=4, preview_every_steps=0, runs=runs)
    rows = loop.train(both, tmp_path / "job")
    loop.train(changed(both, steps=2), tmp_path / "interrupted")
    np.testing.assert_array_equal(loop.train(both, tmp_path / "interrupted"), rows)
    with pytest.raises(ValueError, match="another inverse_prompts"):
        loop.train(changed(both, inverse_prompts="replace"), tmp_path / "interrupted")
    for number, own in enumerate(runs):
        alone = loop.train(changed(both, runs=(), **own), tmp_path / str(number))
        np.testing.assert_allclose(alone[0], rows[number], atol=1e-6)
        assert np.abs(rows[1 - number] - alone[0]).max() > 1e-3


def test_an_error_about_divergence_names_the_run_and_the_step(several, tmp_path):
    runs = (*several.runs[:2], {"relation": "wild", "learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match="loss of wild is nan at step 3"):
        loop.train(changed(several, runs=runs, preview_every_steps=0), tmp_path / "job")


def test_the_description_of_a_job_lists_its_runs(several):
    said = report.describe(prepare.prepare(prepare.settle(several)))
    assert "runs        3 together" in said
    assert "15 steps of 2 x 1 samples a run, 3 per pass through the networks" in said
    assert "hug: 2 exemplars" in said
    assert "reversion-seed1: 3 exemplars at 16 px, reversion, rate" in said


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (({"seed": 0}, {"steps": 5}), r"config.runs\[1\] sets steps: an entry of config.runs can only set relation"),
        (({"inverse_prompts": "add"},), r"config.runs\[0\] sets inverse_prompts: an entry of config.runs can only"),
        (({"seed": 0}, {"sed": 5}), r"config.runs\[1\] sets sed"),
        (({"seed": "one"},), r"config.runs\[0\]: "),
        (({"method": "magic"},), r"config.runs\[0\]: config.method='magic'"),
        (({"seed": 1}, {"seed": 1}), r"config.runs\[1\]: there is a run seed1 already"),
        (("hug",), r"config.runs\[0\]='hug': each run is a dict"),
    ],
)
def test_invalid_runs_are_refused_in_one_line(runs, message):
    c = settings.get_config()
    c.runs = runs
    with pytest.raises(ValueError, match=message) as error:
        settings.settle(c)
    assert "\n" not in str(error.value)


def test_runs_have_the_shortest_names_that_distinguish_the_runs():
    c = settings.get_config()
    c.runs = ({"relation": "hug", "verb_weight": 0.8}, {"relation": "on", "verb_weight": 0.2})
    assert list(settings.each_run(settings.settle(c))) == ["hug", "on"]
    c.runs = (*c.runs, {"relation": "on", "verb_weight": 0.4})
    names = ["hug-verb_weight0.8", "on-verb_weight0.2", "on-verb_weight0.4"]
    assert list(settings.each_run(settings.settle(c))) == names


def test_a_method_switches_settings_off_only_in_its_own_runs():
    c = settings.get_config()
    c.relation, c.method, c.verb_weight = "hug", "reversion", 0.8
    c.runs = ({}, {"method": "inv_reversion"}, {"relation": "on", "seed": 3})
    stored = settings.settle(c)
    read_again = settings.from_dict(json.loads(json.dumps(dataclasses.asdict(stored))))
    assert read_again == stored
    for again in (stored, settings.settle(stored), read_again):
        found = settings.each_run(again)
        assert list(found) == ["hug", "inv_reversion", "on-seed3"]
        assert [run.verb_weight for run in found.values()] == [0.0, 0.8, 0.0]
        assert [run.exemplars for run in found.values()] == ["exemplars/hug", "exemplars/hug", "exemplars/on"]
