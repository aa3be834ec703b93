"""Tests how drawing reads learned words, and the settings of the words' run or model."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_run import changed

from reversion_jax import config as settings
from reversion_jax.drawing import words
from reversion_jax.runs import folder
from reversion_jax.training import loop
from reversion_jax.weights import embeddings


@pytest.fixture
def files(finished, tmp_path):
    """The folder of embedding files of the finished run."""
    embeddings.write(folder.read(finished[0]).words(), "on", tmp_path / "files")
    return tmp_path / "files"


def test_reading_words_from_a_run_also_returns_the_settings_of_that_run(finished):
    workdir, rows = finished
    found = words.read(workdir, None)
    assert list(found.tokens) == ["<R>", "<R-inv>"]
    np.testing.assert_array_equal(np.concatenate(list(found.tokens.values())), rows[0])
    # Drawing uses the precision that suits this machine, not the run's precision.
    assert found.settings == dataclasses.replace(folder.read(workdir).settings, precision="auto")
    assert found.origin == "on by inv_reversion, 6 of 6 steps trained"
    assert words.read(workdir, "another").settings.model == "another"


def test_words_of_an_earlier_checkpoint_are_read(finished):
    found = words.read(finished[0], None, step=2)
    np.testing.assert_array_equal(found.tokens["<R>"], folder.read(finished[0], step=2).rows[:1])
    assert found.origin == "on by inv_reversion, 2 of 6 steps trained"
    with pytest.raises(ValueError, match="holds no rows of step 5: give one of the steps 2, 4, 6"):
        words.read(finished[0], None, step=5)


def test_a_run_without_inverse_prompts_has_one_word(config, tmp_path):
    loop.train(changed(config, method="reversion", steps=2, preview_every_steps=0), tmp_path / "run")
    assert list(words.read(tmp_path / "run", None).tokens) == ["<R>"]


def test_reading_words_from_files_also_returns_the_settings_of_the_model(finished, files):
    names = [str(files / "learned_embeds.bin"), f"on={files}/on.safetensors", f"turned={files}/on-inv.safetensors"]
    found = words.read(None, settings.MINIATURE, names)
    assert list(found.tokens) == ["<R>", "on", "turned"]
    np.testing.assert_array_equal(found.tokens["<R>"], found.tokens["on"])
    np.testing.assert_array_equal(found.tokens["turned"], folder.read(finished[0]).rows[1:])
    assert found.origin == "; ".join(
        [f"<R> from {names[0]}", f"on from {files}/on.safetensors", f"turned from {files}/on-inv.safetensors"]
    )
    # The miniature model's folder has a file of settings. A model without such a file gets the settings of Stable
    # Diffusion.
    assert (found.settings.resolution, found.settings.sample_steps, found.settings.guidance_scale) == (64, 20, 3)
    assert words.read(None, str(files)).settings.sample_steps == 50
    assert words.read(None, settings.MINIATURE).origin == "no learned words"


def test_missing_and_ambiguous_words_are_refused_in_one_line(finished, files, tmp_path):
    both = {"<R>": np.ones((1, 4), np.float32), "<S>": np.ones((1, 4), np.float32)}
    save_file(both, tmp_path / "both.safetensors")
    word = str(files / "on.safetensors")
    for given, message in (
        ((None, None), "give --workdir=RUN or --model="),
        ((tmp_path / "nowhere", None), "no training run in .*nowhere"),
        ((None, "miniature", ["none.pt"]), "no embedding at none.pt"),
        ((finished[0], None, [word]), "<R> is in two files, also .*: rename one by --embedding=TOKEN=FILE"),
        ((None, "miniature", [f"x={tmp_path}/both.safetensors"]), r"holds 2 tokens \(<R>, <S>\): give it without x="),
    ):
        with pytest.raises((ValueError, OSError), match=message) as error:
            words.read(*given)
        assert "\n" not in str(error.value)
