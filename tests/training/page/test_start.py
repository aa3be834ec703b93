"""Tests the run that the page's form starts."""

import json

import numpy as np
import pytest
from PIL import Image

from reversion_jax import config
from reversion_jax.data import exemplars
from reversion_jax.training.page import start
from reversion_jax.training.page.place import Place


class Recorded:
    """Replaces the trainer and records the run that the trainer would start."""

    def refuse_while_busy(self):
        pass

    def start(self, name, settings, workdir, steps):
        self.settings, self.workdir, self.steps = settings, workdir, steps


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "runs")


@pytest.fixture
def pictures(tmp_path):
    """Paths of two photographs with a private description in their EXIF data."""
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    for number, size in enumerate([(40, 30), (20, 24)]):
        Image.new("RGB", size, "red").save(tmp_path / f"photo{number}.jpg", exif=exif)
    return [str(tmp_path / f"photo{number}.jpg") for number in range(2)]


def form(**values):
    usual = {"model": "miniature", "method": "inv_reversion", "steps": 60, "seed": 3, "verb_weight": 0.2, "name": ""}
    drawn = {"relation": "hug", "count": 4, "hatched": False, "files": None, "captions": [""] * 12}
    return {**usual, **drawn, "preview_prompts": "", **values}


def test_the_form_starts_a_run_with_drawn_exemplars(place):
    trainer = Recorded()
    assert start.start(place, trainer, form(name="my hug"), drawn=True) == "my_hug"
    s = trainer.settings
    assert (s.model, s.exemplars, s.relation, s.num_exemplars) == ("miniature", config.DRAWN, "hug", 4)
    assert (s.steps, s.seed, s.verb_weight, s.preview_every_steps) == (60, 3, 0.2, 10)
    assert s.preview_prompts is None  # so the miniature model's preview prompts are used
    assert trainer.workdir == place.folder / "my_hug"
    config.settle(s)  # raises if the settings are invalid


def test_uploaded_pictures_become_an_exemplar_folder_without_exif_data(place, pictures):
    trainer = Recorded()
    captions = ["a photo of cat {} dog\ncat {} dog", "mouse {} hat", *[""] * 10]
    name = start.start(place, trainer, form(files=pictures, captions=captions, name="on"), drawn=False)
    folder = place.folder / name / "exemplars"
    assert trainer.settings.exemplars == str(folder)
    assert trainer.settings.relation == "on"
    assert trainer.settings.preview_prompts == ("a photo of cat <R> dog", "mouse <R> hat")
    found = exemplars.read_folder(folder, 16, invertible=True)
    assert [len(own) for own in found.templates] == [2, 1]
    np.testing.assert_allclose(found.images[0, 0, 0], [1, -1, -1], atol=0.1)
    assert b"taken at home" not in (folder / "0.png").read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"files": None}, "there are no pictures yet"),
        ({"captions": ["cat {} dog", *[""] * 11]}, r"photo1\.jpg has no caption"),
        ({"captions": ["cat {} dog", "cat on dog", *[""] * 10]}, r"photo1\.jpg: write \{\} in place"),
        ({"steps": 0}, "the number of steps must be a whole number from 1 to 20,000"),
        ({"steps": 20_001}, "the number of steps"),
        ({"seed": -1}, "the seed"),
        ({"model": "/etc"}, "model '/etc' is neither"),
    ],
)
def test_a_fault_in_the_form_is_refused_and_writes_nothing(place, pictures, changes, says):
    given = form(files=pictures, captions=["cat {} dog"] * 12)
    with pytest.raises(ValueError, match=says):
        start.start(place, Recorded(), given | changes, drawn=False)
    assert not place.folder.exists()


def test_an_error_about_an_uploaded_picture_has_the_name_of_the_users_file(place, pictures, tmp_path):
    (tmp_path / "photo1.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"^photo1\.jpg: unreadable picture"):
        start.start(place, Recorded(), form(files=pictures, captions=["cat {} dog"] * 12), drawn=False)
    assert not any(path.name == "exemplars" for path in place.folder.rglob("*"))


def test_more_than_twelve_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="13 pictures are too many"):
        start.pictures([tmp_path / f"{number}.jpg" for number in range(13)])


def test_the_default_number_of_steps_depends_on_the_model(place, small):
    assert start.default_steps(place, "miniature") == 400
    assert start.default_steps(place, config.SD15) == start.default_steps(place, "owner/name") == 3000
    own = place.folder / "models" / "own"
    own.mkdir(parents=True)
    (own / "model_index.json").write_text("{}")
    (own / "reversion_jax.json").write_text(json.dumps({"steps": 70}))
    assert start.default_steps(place, "models/own") == 70
