"""Tests the pictures that `sample` draws, the metadata that it records in pictures, and the input that it refuses."""

import dataclasses
import functools

import numpy as np
import pytest
from PIL import Image

from reversion_jax.drawing import generate, samples
from reversion_jax.drawing.pictures import read_metadata
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs import export
from reversion_jax.runtime.errors import Caution
from reversion_jax.weights import embeddings

# Settings with which the tests in this file draw. These settings take precedence over the run's settings.
HOW = {"sampler": "dpmpp_2m_karras", "sample_steps": 3, "guidance_scale": 3.0, "resolution": 16, "sample_batch": 2}


def source(workdir=None, step=None, model=None, files=(), **settings) -> samples.Source:
    return samples.Source(workdir and str(workdir), step, model and str(model), [*map(str, files)], settings)


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path), int)


def test_exported_words_draw_the_same_picture_as_their_run(small, finished, tmp_path, capsys):
    """Draws with a model, two kinds of embedding files and a file of prompts, but without the folder of the run."""
    export.export(finished[0], tmp_path)
    (tmp_path / "prompts.txt").write_text("cat <R> dog\n\ndog hug cat\ndogs hugging, of a photo on top of cat\n")
    files = [tmp_path / "learned_embeds.bin", f"hug={tmp_path}/on.safetensors"]
    prompts = samples.read_prompts([], str(tmp_path / "prompts.txt"))
    by_files = source(model=small, files=files, **HOW)
    with (
        pytest.warns(Caution, match="is too long; left out: "),
        pytest.warns(Caution, match="none of <R>, hug in 'dogs hugging"),
    ):
        samples.sample(by_files, prompts, str(tmp_path / "files"), num_images=1, seed=0)
    said = capsys.readouterr()
    assert f"pictures: {tmp_path}/files; grid of at most 100: {tmp_path}/files/grid.png" in said.out
    names = sorted(path.name for path in (tmp_path / "files").glob("00*.png"))
    assert [name[:3] for name in names] == ["000", "001", "002"]
    about = read_metadata(tmp_path / "files" / names[0])
    assert (about["sampler"], about["steps"], about["seed"]) == ("dpmpp_2m_karras", "3", "0")

    samples.sample(source(finished[0], **HOW), prompts[:1], str(tmp_path / "run"), num_images=1, seed=0)
    pictures = [picture(tmp_path / folder / "000-cat-r-dog-0.png") for folder in ("files", "run")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_the_word_of_an_earlier_step_draws_another_picture(finished, tmp_path):
    for step in (None, 6, 2):
        out = tmp_path / str(step)
        samples.sample(source(finished[0], step, **HOW), ["cat <R> dog"], str(out), num_images=1, seed=3)
    newest, last, early = (picture(tmp_path / step / "000-cat-r-dog-3.png") for step in ("None", "6", "2"))
    np.testing.assert_array_equal(newest, last)
    assert (early != last).any()
    said = [read_metadata(tmp_path / step / "grid.png")["words"] for step in ("6", "2")]
    assert said == [f"on by inv_reversion, {step} of 6 steps trained" for step in (6, 2)]


def test_bfloat16_draws_nearly_the_same_picture(small, tmp_path):
    low = source(model=small, precision="bfloat16", **HOW)
    samples.sample(low, ["cat"], str(tmp_path), num_images=1, seed=0)
    samples.sample(source(model=small, **HOW), ["dog", "cat"], str(tmp_path), num_images=1, seed=0)
    far = np.abs(picture(tmp_path / "000-cat-0.png") - picture(tmp_path / "001-cat-0.png"))
    assert 0 < far.max() < 40


def test_each_command_gets_a_new_numbered_folder(tmp_path):
    assert samples.free_folder(tmp_path / "samples") == tmp_path / "samples" / "000"
    assert (tmp_path / "samples" / "000").is_dir()  # created immediately, so that no other command uses it
    assert samples.free_folder(tmp_path / "samples") == tmp_path / "samples" / "001"


def test_prompts_come_from_flags_and_from_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfcat\r\n  \n dog on cat \n")
    assert samples.read_prompts(["owl"], str(tmp_path / "prompts.txt")) == ["owl", "cat", "dog on cat"]
    with pytest.raises(ValueError, match="no prompt: give --prompt, or --prompts_file with one per line"):
        samples.read_prompts([], None)
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"prompts\.txt is not a text file in UTF-8"):
        samples.read_prompts(["owl"], str(tmp_path / "prompts.txt"))


@pytest.mark.parametrize(
    ("prompt", "grammar"),
    [
        ("(cat:1.3) <R> dog", "(cat:1.3)"),
        ("((cat)) <R> dog", "((cat))"),
        ("[[cat]] <R> dog", "[[cat]]"),
        ("cat embedding:hug <R> dog", "embedding:hug"),
        ("cat <R> dog <lora:thing:0.8>", "<lora:thing:0.8>"),
        ("cat <R> dog <hypernet:x:1>", "<hypernet:x:1>"),
        ("[cat:dog:0.5] <R> dog", "[cat:dog:0.5]"),
        ("cat BREAK <R> dog", "BREAK"),
        ("cat++ <R> dog", "t++"),
    ],
)
def test_the_prompt_syntax_of_other_tools_causes_a_warning(recorded, prompt, grammar):
    tokenizer = Tokenizer.load(recorded.model.tokenizer_folder, {"<R>": 1}, vocab_size=600, length=77)
    said = [text for text in samples.complaints([prompt], "", tokenizer) if "letter by letter" in text]
    assert any(text.startswith(f"{grammar!r} in {prompt!r} is read letter by letter") for text in said), said


@pytest.mark.parametrize("prompt", ["cat (a pet) <R> dog, 4:3", "a [red] cat <R> dog", "cat <R> dog - at night"])
def test_there_is_no_warning_about_plain_prompts(recorded, prompt):
    tokenizer = Tokenizer.load(recorded.model.tokenizer_folder, {"<R>": 1}, vocab_size=600, length=77)
    tokenizer = dataclasses.replace(tokenizer, length=77)  # the tiny tokenizer reads 12 tokens
    assert samples.complaints([prompt], "", tokenizer) == []


def test_a_learned_word_that_replaces_a_word_of_the_model_causes_a_warning(recorded):
    """There is no warning about a placeholder that the model's own tokenizer knows."""
    load = functools.partial(Tokenizer.load, recorded.model.tokenizer_folder, vocab_size=600, length=12)
    assert samples.complaints(["cat on dog"], "", load({"on": 1})) == [
        "the learned word on replaces the model's own word 'on' in every prompt"
    ]
    assert samples.complaints(["cat hug dog"], "", load({"hug": 1})) == []
    tokenizer = load({})
    assert samples.complaints(["cat <mine> dog"], "", tokenizer)
    tokenizer.backend.add_tokens("<mine>")
    assert samples.complaints(["cat <mine> dog"], "", tokenizer) == []


def test_pictures_record_prompt_sampler_seed_and_size(finished, tmp_path):
    how = HOW | {"height": 16, "width": 24, "clip_skip": 0, "negative_prompt": "photo"}
    samples.sample(source(finished[0], **how), ["cat <R> dog"], str(tmp_path / "out"), num_images=1, seed=7)
    file = tmp_path / "out" / "000-cat-r-dog-7.png"
    assert picture(file).shape == (16, 24, 3)
    said = read_metadata(file)["parameters"].splitlines()
    assert said[:2] == ["cat <R> dog", "Negative prompt: photo"]
    assert said[2].startswith("Steps: 3, Sampler: DPM++ 2M Karras, CFG scale: ")
    assert ", Seed: 7, Size: 24x16, Model: " in said[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": float("nan")}, "guidance_scale=nan: must be a number, and finite"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf: must be a number"),
        ({"width": 17}, "width or resolution=17: must be a multiple of 2"),
        ({"clip_skip": 9}, "clip_skip=9: the text encoder has 1 layers"),
        ({"vae": "nowhere"}, "vae 'nowhere' is neither a folder"),
    ],
)
def test_settings_out_of_range_are_refused_by_sample_in_one_line(finished, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        samples.sample(source(finished[0], **HOW | settings), ["<R>"], str(tmp_path / "out"), num_images=1, seed=0)
    assert "\n" not in str(error.value)
    assert not list((tmp_path).rglob("*.png"))


def test_a_lone_surrogate_in_a_prompt_is_refused(finished, tmp_path):
    with pytest.raises(ValueError, match="contains half a character"):
        samples.sample(source(finished[0], **HOW), ["<R> \ud800"], str(tmp_path / "out"), num_images=1, seed=0)
    assert not (tmp_path / "out").exists()


def test_pictures_of_nan_are_refused_and_not_written(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "_draw_batch", lambda *_, **__: np.full((1, 16, 16, 3), np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="the model drew pictures of NaN, although its weights are finite"):
        samples.sample(source(finished[0], **HOW), ["<R>"], str(tmp_path / "out"), num_images=1, seed=0)
    assert not list(tmp_path.rglob("*.png"))


def test_a_prompt_without_a_learned_word_or_with_an_unknown_placeholder_causes_a_warning(recorded):
    tokenizer = Tokenizer.load(recorded.model.tokenizer_folder, {"<R>": 1}, vocab_size=600, length=12)
    assert samples.complaints(["cat <R> dog"], "photo", tokenizer) == []
    assert samples.complaints(["cat"], "<R>", tokenizer) == []
    assert samples.complaints(["cat <S> dog"], "", tokenizer) == [
        "none of <R> in 'cat <S> dog': the picture does not use what was learned",
        "<S> in 'cat <S> dog' is not a learned word here, so it is read letter by letter",
    ]
    (cut,) = samples.complaints(["<R> dogs hugging, of a photo on top of cat"], "", tokenizer)
    assert "is too long; left out: " in cut


def test_bad_input_for_sample_is_refused_in_one_line(finished, tmp_path):
    embeddings.write({"<R>": np.ones((1, 32), np.float32)}, "wide", tmp_path)
    wide = [tmp_path / "wide.safetensors"]
    draw = lambda source, seed=0: samples.sample(source, ["<R>"], str(tmp_path / "out"), num_images=2, seed=seed)
    for given, message in (
        (source(finished[0], sampler="magic"), "use one of ddim, pndm, euler"),
        (source(finished[0], resolution=15), "resolution=15: must be a multiple of 2"),
        (source(model="miniature", files=wide), "<R> has 32 numbers per row and was made for another model"),
        (source(model=str(tmp_path / "nowhere")), "neither a folder"),
        (source(finished[0], step=1), "holds no rows of step 1"),
    ):
        with pytest.raises((ValueError, OSError), match=message) as error:
            draw(given)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="--num_images=2 --seed=4294967295: give at least 1 image, and seeds below"):
        draw(source(finished[0]), seed=2**32 - 1)
    with pytest.raises(ValueError, match="resolution=15"):
        samples.sample(source(finished[0], resolution=15), ["<R>"], None, num_images=1, seed=0)
    assert not (finished[0] / "samples").exists()
    assert not list(tmp_path.glob("out/*"))
