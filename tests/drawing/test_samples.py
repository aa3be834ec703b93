"""Pictures in a folder: what they are drawn with, what they say of themselves, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from reversion_jax.drawing import samples
from reversion_jax.drawing.pictures import read_metadata
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs import export
from reversion_jax.weights import embeddings

# How the pictures here are drawn, whatever the run's settings are.
HOW = {"sampler": "dpmpp_2m_karras", "sample_steps": 3, "guidance_scale": 3.0, "resolution": 16, "sample_batch": 2}


def source(workdir=None, step=None, model=None, files=(), **settings) -> samples.Source:
    return samples.Source(workdir and str(workdir), step, model and str(model), [*map(str, files)], settings)


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path), int)


def test_drawing_needs_no_training_run(small, finished, tmp_path, capsys):
    """A model, embedding files of two kinds, prompts from a file; and the same word gives the run's own picture."""
    export.export(finished[0], tmp_path)
    (tmp_path / "prompts.txt").write_text("cat <R> dog\n\ndog hug cat\ndogs hugging, of a photo on top of cat\n")
    files = [tmp_path / "learned_embeds.bin", f"hug={tmp_path}/on.safetensors"]
    prompts = samples.read_prompts([], str(tmp_path / "prompts.txt"))
    by_files = source(model=small, files=files, **HOW)
    samples.sample(by_files, prompts, str(tmp_path / "files"), num_images=1, seed=0)
    said = capsys.readouterr()
    assert "is too long; left out: " in said.err
    assert "none of <R>, hug in 'dogs hugging" in said.err
    assert f"pictures: {tmp_path}/files, up to 100 of them on {tmp_path}/files/grid.png" in said.out
    names = sorted(path.name for path in (tmp_path / "files").glob("00*.png"))
    assert [name[:3] for name in names] == ["000", "001", "002"]
    about = read_metadata(tmp_path / "files" / names[0])
    assert (about["sampler"], about["steps"], about["seed"]) == ("dpmpp_2m_karras", "3", "0")

    samples.sample(source(finished[0], **HOW), prompts[:1], str(tmp_path / "run"), num_images=1, seed=0)
    pictures = [picture(tmp_path / folder / "000-cat-r-dog-0.png") for folder in ("files", "run")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_an_earlier_word_draws_another_picture(finished, tmp_path):
    for step in (None, 6, 2):
        out = tmp_path / str(step)
        samples.sample(source(finished[0], step, **HOW), ["cat <R> dog"], str(out), num_images=1, seed=3)
    newest, last, early = (picture(tmp_path / step / "000-cat-r-dog-3.png") for step in ("None", "6", "2"))
    np.testing.assert_array_equal(newest, last)
    assert (early != last).any()
    said = [read_metadata(tmp_path / step / "grid.png")["words"] for step in ("6", "2")]
    assert said == [f"on by inv_reversion, {step} of 6 steps trained" for step in (6, 2)]


def test_half_precision(small, tmp_path):
    low = source(model=small, precision="bfloat16", **HOW)
    samples.sample(low, ["cat"], str(tmp_path), num_images=1, seed=0)
    samples.sample(source(model=small, **HOW), ["dog", "cat"], str(tmp_path), num_images=1, seed=0)
    far = np.abs(picture(tmp_path / "000-cat-0.png") - picture(tmp_path / "001-cat-0.png"))
    assert 0 < far.max() < 40


def test_pictures_go_where_there_are_none(tmp_path):
    assert samples.free_folder(tmp_path / "samples") == tmp_path / "samples" / "000"
    (tmp_path / "samples" / "000").mkdir(parents=True)
    assert samples.free_folder(tmp_path / "samples") == tmp_path / "samples" / "001"


def test_prompts(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfcat\r\n  \n dog on cat \n")
    assert samples.read_prompts(["owl"], str(tmp_path / "prompts.txt")) == ["owl", "cat", "dog on cat"]
    with pytest.raises(ValueError, match="no prompt: give --prompt, or --prompts_file with one a line"):
        samples.read_prompts([], None)
    (tmp_path / "prompts.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"prompts\.txt is no text in UTF-8"):
        samples.read_prompts(["owl"], str(tmp_path / "prompts.txt"))


def test_complaints(recorded):
    tokenizer = Tokenizer.load(recorded.model.tokenizer_folder, {"<R>": 1}, vocab_size=600, length=12)
    assert samples.complaints(["cat <R> dog"], "photo", tokenizer) == []
    assert samples.complaints(["cat"], "<R>", tokenizer) == []
    assert samples.complaints(["cat <S> dog"], "", tokenizer) == [
        "none of <R> in 'cat <S> dog': what was learned has no part in it",
        "<S> in 'cat <S> dog' is no learned word here, and is read letter by letter",
    ]
    (cut,) = samples.complaints(["<R> dogs hugging, of a photo on top of cat"], "", tokenizer)
    assert "is too long; left out: " in cut


def test_bad_input_is_one_clear_line(finished, tmp_path):
    embeddings.write({"<R>": np.ones((1, 32), np.float32)}, "wide", tmp_path)
    wide = [tmp_path / "wide.safetensors"]
    draw = lambda source, seed=0: samples.sample(source, ["<R>"], str(tmp_path / "out"), num_images=2, seed=seed)
    for given, message in (
        (source(finished[0], sampler="magic"), "known: ddim, pndm, euler"),
        (source(finished[0], resolution=15), "resolution=15: this model draws multiples of 2 pixels"),
        (source(model="miniature", files=wide), "<R> is 32 numbers wide, made for another model: miniature has 128"),
        (source(model=str(tmp_path / "nowhere")), "neither a folder"),
        (source(finished[0], step=1), "kept no rows of step 1"),
    ):
        with pytest.raises((ValueError, OSError), match=message) as error:
            draw(given)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="--num_images=2 --seed=4294967295: at least 1 image, seeds from 0 to"):
        draw(source(finished[0]), seed=2**32 - 1)
    assert not list(tmp_path.glob("out/*"))
