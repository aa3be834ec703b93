import itertools
import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from places import SHARED
from safetensors.numpy import save_file
from tiny_run import changed

from reversion_jax.data import exemplars
from reversion_jax.drawing import generate, pictures
from reversion_jax.inversion.prompts import PLACEHOLDERS
from reversion_jax.runs import folder, history
from reversion_jax.runtime.errors import Caution
from reversion_jax.training import loop, prepare, report
from reversion_jax.weights import embeddings
from reversion_jax.weights.load import load_model


def test_a_run_leaves_metrics_previews_a_sheet_and_a_plot(finished):
    workdir, rows = finished
    assert rows.shape == (1, 2, 32)
    records = history.read(workdir / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    looks = [r for r in records if "nearest" in r]
    assert [r["step"] for r in looks] == [2, 3, 4, 6]
    assert looks[0]["nearest"][0][0] == "on"
    assert 0 < looks[0]["distance"] < looks[-1]["distance"]
    previews = sorted(path.name for path in (workdir / "previews").iterdir())
    assert previews == ["step_000000.png", "step_000003.png", "step_000006.png"]
    assert (workdir / "contact_sheet.png").stat().st_size > 5000
    assert (workdir / "training.png").stat().st_size > 5000


def test_resumed_training_equals_uninterrupted_training(config, finished, tmp_path):
    loop.train(changed(config, steps=3), tmp_path / "run")
    rows = loop.train(config, tmp_path / "run")
    np.testing.assert_array_equal(rows, finished[1])
    mine, theirs = (history.read(path / "metrics.jsonl") for path in (tmp_path / "run", finished[0]))
    assert [(r["step"], r["denoising"], r["control"]) for r in mine] == [
        (r["step"], r["denoising"], r["control"]) for r in theirs
    ]


@pytest.mark.parametrize(("call", "stops_at"), [(1, 2), (4, 6)], ids=["the first call", "the last call"])
def test_a_signal_stops_training_with_a_checkpoint_that_can_be_resumed(
    config, finished, tmp_path, monkeypatch, call, stops_at
):
    """A signal during the last call stops too, so that a command with several jobs does not start the next one."""
    advance, calls = loop.advance, itertools.count(1)

    def interrupted(*args):
        if next(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return advance(*args)

    monkeypatch.setattr(loop, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stops_at}, checkpoint written"):
        loop.train(config, tmp_path / "run")
    np.testing.assert_array_equal(loop.train(config, tmp_path / "run"), finished[1])
    assert (tmp_path / "run" / "contact_sheet.png").exists()


def test_learn_reports_progress_and_returns_the_run(config, finished, tmp_path):
    told = []
    (run,) = loop.learn(config, str(tmp_path / "run"), on_progress=told.append)
    assert [progress.step for progress in told] == [2, 3, 4, 6]
    assert {progress.steps for progress in told} == {6}
    records = history.read(tmp_path / "run" / "metrics.jsonl")
    for progress in told:
        assert progress.runs == {"": records[progress.step - 1]}
        assert len(progress.runs[""]["nearest"]) == 10
    np.testing.assert_array_equal(run.rows, finished[1][0])
    assert run.step == 6
    assert list(run.words()) == ["<R>", "<R-inv>"]


def test_the_caller_can_stop_training_and_resume_it(config, finished, tmp_path):
    told = []
    rows = loop.train(config, tmp_path / "run", on_progress=told.append, should_stop=lambda: bool(told))
    assert [progress.step for progress in told] == [2]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
    assert not (tmp_path / "run" / "contact_sheet.png").exists()
    assert rows.shape == (1, 2, 32)
    np.testing.assert_array_equal(rows[0], folder.read(finished[0], step=2).rows)
    np.testing.assert_array_equal(loop.train(config, tmp_path / "run"), finished[1])
    assert [record["step"] for record in history.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_run_stopped_before_its_first_step_has_the_initial_rows(config, tmp_path):
    rows = loop.train(config, tmp_path / "run", should_stop=lambda: True)
    np.testing.assert_array_equal(rows, prepare.prepare(prepare.settle(config)).first_rows)
    run = folder.read(tmp_path / "run")
    assert run.step == 0
    np.testing.assert_array_equal(run.rows, rows[0])


def test_training_resumed_after_a_crash_equals_uninterrupted_training(config, finished, tmp_path):
    loop.train(changed(config, steps=4), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "denoi')
    np.testing.assert_array_equal(loop.train(config, tmp_path / "run"), finished[1])
    assert [r["step"] for r in history.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_previews_and_checkpoints_do_not_change_the_rows(config, finished, tmp_path):
    blind = changed(config, preview_prompts=(), preview_every_steps=100, checkpoint_every_steps=100)
    rows = loop.train(changed(blind, steps_per_dispatch=6), tmp_path / "run")
    np.testing.assert_array_equal(rows, finished[1])


def test_a_large_model_on_a_cpu_trains_one_step_per_call_and_says_how_long_it_takes(
    config, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(prepare, "_LARGE", 0)
    told = []
    rows = loop.train(config, tmp_path / "run", on_progress=told.append)
    assert [progress.step for progress in told] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(rows, finished[1], rtol=1e-5, atol=1e-6)
    assert "a step takes 0 s on this CPU, so the run takes 0.0 hours" in capsys.readouterr().out
    previews = sorted((tmp_path / "run" / "previews").iterdir())
    assert [path.name for path in previews] == [f"step_{at:06d}.png" for at in (0, 3, 6)]
    parts = json.loads((tmp_path / "run" / "startup.json").read_text())
    assert parts["compile the step"][1] <= parts["compile the drawing"][0]  # two compilers at once would be slower


def test_other_seeds_and_methods_give_other_rows(config, finished, tmp_path):
    other = loop.train(changed(config, seed=1), tmp_path / "seed")
    reversion = loop.train(changed(config, method="reversion"), tmp_path / "reversion")
    assert (other != finished[1]).any()
    assert (reversion[0, 0] != finished[1][0, 0]).any()
    first = prepare.prepare(prepare.settle(config)).first_rows[0]
    np.testing.assert_array_equal(reversion[0, 1], first[1])


def test_training_with_another_config_in_the_same_folder_is_refused(config, finished):
    with pytest.raises(ValueError, match=r"another learning_rate \(0.01, not 0.5\), seed \(0, not 1\)"):
        loop.train(changed(config, seed=1, learning_rate=0.5), finished[0])


def test_training_a_finished_run_again_only_renews_its_report(config, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "contact_sheet.png").unlink()
    np.testing.assert_array_equal(loop.train(config, tmp_path / "run"), finished[1])
    assert (tmp_path / "run" / "contact_sheet.png").is_file()
    with pytest.raises(ValueError, match="is at step 6 already"):
        loop.train(changed(config, steps=4), tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        loop.train(config, tmp_path / "run")


@pytest.mark.long
def test_training_on_real_photographs_gives_finite_rows(config, sd_tiny, tmp_path):
    photographs = SHARED / "exemplars" / "inside"
    if not photographs.is_dir():
        pytest.skip("no shared/exemplars beside the repository")
    mine = changed(config, model=str(sd_tiny / "torch_sd_tiny"), exemplars=str(photographs), relation="inside", steps=2)
    mine.update(initialiser="and", prepositions="prepositions", verbs="verbs")
    rows = loop.train(mine, tmp_path / "run")
    assert np.isfinite(rows).all()
    assert (tmp_path / "run" / "contact_sheet.png").is_file()


def test_sigma_is_converted_to_pixels_of_the_latents_if_noisy_latents_are_blurred(config):
    mine = changed(config, suppressor_target="noisy_latents", suppressor_sigma_px=3.0)
    prepared = prepare.prepare(prepare.settle(mine))
    assert prepared.step_config.blur_noisy_latents
    assert prepared.hyper.latent_sigma[0] == 3.0 / prepared.sd.config.vae.downscale
    clear = prepare.prepare(prepare.settle(changed(config, suppressor_sigma_px=0.0)))
    np.testing.assert_array_equal(prepared.data.mean, clear.data.mean)
    blurred = prepare.prepare(prepare.settle(changed(config, suppressor_sigma_px=3.0)))
    assert np.abs(blurred.data.mean - clear.data.mean).max() > 1e-3


def test_an_error_about_divergence_names_the_step(config, tmp_path):
    with pytest.raises(FloatingPointError, match=r"(loss is nan|rows are not finite) at step [1-6]: lower config"):
        loop.train(changed(config, learning_rate=1e30, preview_prompts=()), tmp_path / "run")


@pytest.mark.parametrize("rate", [3.0, 30.0])
def test_rows_whose_norm_grows_too_large_stop_the_run(config, tmp_path, rate):
    """The losses of a run whose rows grow too large stay finite, so the losses cannot stop the run."""
    said = r"diverged: at step [1-6] their norm is .*, but the usual norm is .*: lower config.learning_rate"
    with pytest.raises(FloatingPointError, match=said):
        loop.train(changed(config, learning_rate=rate, preview_prompts=()), tmp_path / "run")
    assert not (tmp_path / "run" / "contact_sheet.png").exists()


@pytest.mark.parametrize("rate", [0.0, 1e-5])
def test_a_run_that_learns_nothing_ends_with_a_warning(config, tmp_path, rate):
    with pytest.warns(Caution, match=r"<R> has moved by only 0.0.% of its norm, so it still means 'on': raise"):
        loop.train(changed(config, learning_rate=rate, preview_prompts=()), tmp_path / "run")


def test_a_run_can_start_from_an_embedding_file(config, finished, tmp_path):
    """The embedding file may have one of a run's two words, or both words."""
    (run,) = loop.learn(changed(config, steps=1), tmp_path / "first")
    words = run.words()
    embeddings.write(words, "on", tmp_path / "out")
    mine = changed(config, initialiser=str(tmp_path / "out" / "on.safetensors"))
    first = prepare.prepare(prepare.settle(mine)).first_rows[0]
    np.testing.assert_array_equal(first, np.concatenate([words["<R>"]] * 2))
    save_file(words, tmp_path / "both.safetensors")
    first = prepare.prepare(prepare.settle(changed(mine, initialiser=str(tmp_path / "both.safetensors")))).first_rows[0]
    np.testing.assert_array_equal(first, run.rows)
    narrow, none = np.zeros((1, 31)), np.full((1, 32), np.nan)
    for rows, message in ((narrow, r"rows of shape \[1, 31\], but"), (none, "holds NaN")):
        save_file({"<R>": rows.astype(np.float32)}, tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match=message):
            prepare.prepare(prepare.settle(changed(mine, initialiser=str(tmp_path / "bad.safetensors"))))


def test_pictures_need_not_be_square(config, tmp_path):
    mine = changed(config, height=16, width=24, steps=1, preview_every_steps=1)
    (run,) = loop.learn(mine, tmp_path / "run")
    assert run.settings.size == (16, 24)
    prepared = prepare.prepare(prepare.settle(mine))
    assert prepared.data.mean.shape[2:4] == (8, 12)
    with Image.open(tmp_path / "run" / "previews" / "step_000001.png") as preview:
        assert preview.size == (2 * 24 + 2, 2 * 16 + 2)
    with pytest.raises(ValueError, match=r"config\.width=25: must be a multiple of 2"):
        prepare.prepare(prepare.settle(changed(mine, width=25)))


def test_captions_longer_than_the_text_encoder_reads_cause_a_warning(config, tmp_path):
    shown = np.zeros((1, 16, 16, 3), np.uint8)
    exemplars.write_folder(tmp_path / "exemplars", shown, [["cat {} dog, on top of photo of cat on dog"]])
    mine = changed(config, exemplars=str(tmp_path / "exemplars"), method="reversion")
    with pytest.warns(Caution, match=r"0\.png: the model reads only 12 tokens of 'cat <R> dog.*; left out: '.*dog'"):
        prepare.prepare(prepare.settle(mine))


def test_previews_equal_the_pictures_of_sample(finished):
    workdir, _ = finished
    run = folder.read(workdir)
    sd, tokenizer, _ = load_model(run.settings.model, dict.fromkeys(PLACEHOLDERS, 1))
    texts, sampling = list(run.settings.preview_prompts), generate.Sampling.of(run.settings)
    images = generate.draw(sd, tokenizer, texts, [0, 1, 2], run.rows, sampling=sampling)
    preview = np.asarray(Image.open(workdir / "previews" / "step_000006.png"))
    ours = pictures.grid(generate.to_uint8(images))
    assert np.abs(preview.astype(int) - ours).max() <= 1


def test_images_do_not_depend_on_the_batch_size(finished):
    run = folder.read(finished[0])
    sd, tokenizer, _ = load_model(run.settings.model, dict.fromkeys(PLACEHOLDERS, 1))

    def draw(texts, seeds, size):
        sampling = generate.Sampling(num_steps=2, guidance_scale=3.0, resolution=16, batch_size=size)
        return generate.draw(sd, tokenizer, texts, seeds, run.rows, sampling=sampling)

    together = draw(["cat <R> dog"] * 5, [0, 1, 2, 3, 4], 2)
    assert together.shape == (5, 16, 16, 3)
    np.testing.assert_allclose(draw(["cat <R> dog"], [3], 1)[0], together[3], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.05


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"exemplars": "nowhere"}, "no folder of exemplars at"),
        ({"model": "no such model"}, "neither a folder"),
        ({"model": "own/er"}, "own/er"),
        ({"resolution": 15}, "must be a multiple of 2"),
        ({"positives_per_sample": 9}, "3 words, fewer than"),
        ({"prepositions": "nowhere.txt"}, "nowhere"),
        ({"initialiser": "catdog"}, "initialiser"),
    ],
)
def test_bad_input_for_training_is_refused_in_one_line(config, values, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message) as error:
        loop.train(changed(config, **values), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_templates_must_be_invertible_only_for_inverse_prompts(config, tmp_path):
    shown = np.zeros((1, 16, 16, 3), np.uint8)
    exemplars.write_folder(tmp_path / "exemplars", shown, [["cat {} dog on top"]])
    mine = changed(config, exemplars=str(tmp_path / "exemplars"))
    with pytest.raises(ValueError, match=r"0\.png"):
        prepare.prepare(prepare.settle(mine))
    prepare.prepare(prepare.settle(changed(mine, method="reversion")))


def test_the_description_of_a_run_has_its_exemplars_and_prompts(config):
    said = report.describe(prepare.prepare(prepare.settle(config)))
    assert "3 exemplars at 16 px" in said
    assert "'dog <R-inv> <R> cat'" in said
    assert "\nlearns      64 numbers: 1 row(s) each of <R> and <R-inv>, from 'on'\n" in said
    without = report.describe(prepare.prepare(prepare.settle(changed(config, method="reversion"))))
    assert "\nlearns      32 numbers: 1 row(s) of <R>, from 'on'\n" in without
    assert "model sets" not in said  # this model's folder has no settings
