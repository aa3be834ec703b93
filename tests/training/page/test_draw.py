"""Tests the tabs Draw and Look of the page, with the tiny model."""

import shutil
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from reversion_jax.inversion.prompts import INVERSE, RELATION
from reversion_jax.training.page import draw, insight, models, take_away, trainer
from reversion_jax.training.page.faults import heard
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.trainer import State, Trainer
from reversion_jax.weights import embeddings


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A folder with a finished run of the tiny model. The run is named "on"."""
    place = Place(tmp_path_factory.mktemp("page"))
    shutil.copytree(finished[0], place.folder / "on")
    return place


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Catches warnings, which do not matter in these tests."""


def form(**values):
    usual = {"key": "run:on", "model": "miniature", "prompts": "cat {} dog", "compare": False, "plain": "", "count": 2}
    return {**usual, "seed": 7, "steps": 2, "guidance": 2.0, "sampler": "ddim", "negative": "", **values}


def drawn(place, **values):
    return draw.draw(place, Trainer(), form(**values))


def test_drawn_pictures_record_how_they_were_made(place, tmp_path):
    made = drawn(place, prompts="cat {} dog\ndog <R-inv> <R> cat", negative="photo")
    assert made.columns == 2
    assert [caption for _, caption in made.pictures] == [
        "cat <R> dog, seed 7",
        "dog <R-inv> <R> cat, seed 7",
        "cat <R> dog, seed 8",
        "dog <R-inv> <R> cat, seed 8",
    ]
    texts = [Image.open(path).text for path, _ in made.pictures]
    assert [(text["prompt"], text["seed"]) for text in texts[:2]] == [
        ("cat <R> dog", "7"),
        ("dog <R-inv> <R> cat", "7"),
    ]
    assert texts[0]["steps"] == "2"
    assert texts[0]["guidance_scale"] == "2.0"
    assert texts[0]["negative_prompt"] == "photo"
    assert texts[0]["words"] == "on by inv_reversion, 6 of 6 steps trained"
    with zipfile.ZipFile(made.archive) as archive:
        assert len(archive.namelist()) == 5  # four pictures and the grid
        archive.extractall(tmp_path)
    (grid,) = tmp_path.glob("*/grid.png")
    assert Image.open(grid).text["prompts"] == "cat <R> dog\ndog <R-inv> <R> cat"
    # The browser gets copies of the pictures, because it may not read the page's folder.
    assert not any(path.startswith(str(place.folder)) for path, _ in made.pictures)
    assert len(list((place.folder / "on" / "samples").glob("*/0*.png"))) == 4


def test_the_model_is_loaded_once(place, monkeypatch):
    models.forget()
    drawn(place, count=1)
    monkeypatch.setattr(models, "load_model", None)  # loading again would fail
    drawn(place, count=1, prompts="cat <R-inv> <R> dog")
    assert models._loaded.cache_info().currsize == 1


def test_a_comparison_has_a_direct_an_inverse_and_a_plain_prompt(place):
    found = draw.source(place, "run:on", "miniature")
    said = draw.compared("a photo of cat {} dog", found, "on top of")
    assert said == {
        "direct": "a photo of cat <R> dog",
        "inverse": "a photo of dog <R-inv> <R> cat",
        "plain words": "a photo of cat on top of dog",
    }
    assert draw.compared("a photo of cat <R> dog", found, "on top of") == said
    without = found._replace(tokens={RELATION: found.tokens[RELATION]})
    assert set(draw.compared("cat {} dog", without, " ")) == {"direct"}
    assert draw.plain_words(found) == "on"
    assert INVERSE in found.tokens
    with pytest.raises(ValueError, match=r"to compare, write two things with one \{\} between"):
        draw.compared("cat dog", found, "on")


def test_a_comparison_gives_no_warning_about_its_plain_prompt(place):
    with heard() as notes:
        drawn(place, prompts="cat {} dog", compare=True, plain="on", count=1)
    assert notes == []
    with heard() as notes:
        drawn(place, prompts="cat on dog", count=1)
    assert notes == ["none of <R>, <R-inv> in 'cat on dog': the picture does not use what was learned"]


def test_an_uploaded_embedding_file_draws_pictures(place, small, tmp_path):
    shutil.copytree(small, place.folder / "models" / "small", dirs_exist_ok=True)
    (place.folder / "models" / "small" / "reversion_jax.json").write_text('{"resolution": 16}')
    embeddings.write({"<R>": np.ones((1, 32))}, "hug", tmp_path)
    key = place.keep_embedding(tmp_path / "hug.safetensors")
    made = drawn(place, key=key, model="models/small", count=1)
    assert Image.open(made.pictures[0][0]).text["prompt"] == "cat <R> dog"
    # The page can also draw with a model alone, without a learned word.
    alone = drawn(place, key="", model="models/small", count=1, prompts="a photo of cat")
    assert Image.open(alone.pictures[0][0]).text["words"] == "no learned words"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": " \n"}, "write a prompt"),
        ({"prompts": "x\n" * 9}, "at most 8 prompts"),
        ({"prompts": "x" * 501}, "at most 500 letters"),
        ({"count": 17}, "pictures of each prompt must be a whole number from 1 to 16"),
        ({"seed": -1}, "the first seed"),
        ({"steps": 201}, "the number of steps"),
        ({"guidance": None}, "the guidance must be a number from 0 to 30"),
        ({"guidance": float("nan")}, "the guidance"),
        ({"sampler": "magic"}, "sampler 'magic' is unknown"),
        ({"key": "run:none"}, "there is no run named none"),
        ({"key": "", "model": "miniature", "prompts": "x \ud800"}, "half a character"),
        ({"key": "", "model": "/etc"}, "model '/etc' is neither"),
    ],
)
def test_a_form_that_cannot_be_drawn_is_refused_and_nothing_is_written(place, changes, says):
    before = sorted(place.folder.rglob("*"))
    with pytest.raises(ValueError, match=says):
        drawn(place, **changes)
    assert sorted(place.folder.rglob("*")) == before


def test_drawing_is_refused_while_an_accelerator_trains(place, monkeypatch):
    busy = Trainer()
    busy.state = State("hug", trainer.TRAINING)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="hug is being learned and needs the device's memory"):
        draw.draw(place, busy, form())
    with pytest.raises(ValueError, match="needs the device's memory"):
        insight.look_into(place, busy, "run:on", "")


def test_looking_at_a_word_gives_numbers_and_pictures(place):
    seen = insight.look_into(place, Trainer(), "run:on", "")
    assert set(seen.words) == {"<R>", "<R-inv>"}
    assert seen.words["<R>"]["norm"] > 0
    captions = ["map of the learned word", "losses and nearest words"]
    assert [caption[: len(start)] for (_, caption), start in zip(seen.pictures, captions, strict=True)] == captions
    assert min(picture.width for picture, _ in seen.pictures) > 500
    prompted = insight.look_into(place, Trainer(), "run:on", "", "cat {} dog")
    assert prompted.pictures[1][1] == "attention of the words: cat <R> dog"
    with pytest.raises(ValueError, match="choose a learned word first"):
        insight.look_into(place, Trainer(), "", "")


def test_the_words_of_a_run_are_packed_for_other_tools(place):
    archive = take_away.pack(place, "run:on")
    with zipfile.ZipFile(archive) as zipped:
        assert set(zipped.namelist()) == {
            *("on.safetensors", "on-inv.safetensors", "learned_embeds.bin", "how_to_use.txt")
        }
        how = zipped.read("how_to_use.txt").decode()
    assert 'pipe.load_textual_inversion("on.safetensors", token="<R>")' in how
    assert take_away.pack(place, "file:word.safetensors") is None
