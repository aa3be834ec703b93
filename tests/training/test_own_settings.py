"""Tests settings in a model's folder.

The model's settings are used if the user sets nothing. A model may set only some settings.
"""

import json
import shutil
from pathlib import Path

import pytest
from config_files import load
from tiny_run import changed

from reversion_jax import config as settings
from reversion_jax.training import dreambooth, loop, prepare, report
from reversion_jax.weights import own_settings

OWN = {
    "steps": 2,
    "learning_rate": 0.02,
    "guidance_scale": 3,
    "verbs": "miniature_verbs",
    "preview_prompts": ["cat <R> dog"],
    "dreambooth": {"steps": 3, "learning_rate": 1e-3},
}


def write(folder: Path, values: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "reversion_jax.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return str(folder)


@pytest.fixture(scope="module")
def model(small, tmp_path_factory) -> str:
    """The tiny model with a file of settings in its folder."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("own") / "model")
    return write(folder, OWN)


def test_the_models_settings_are_used_if_the_user_sets_nothing(model):
    c = settings.get_config()
    c.model, c.learning_rate, c.verbs = model, 0.5, "verbs"
    settled = prepare.settle(c)
    assert (settled.steps, settled.guidance_scale, settled.preview_prompts) == (2, 3, ("cat <R> dog",))
    assert (settled.learning_rate, settled.verbs) == (0.5, "verbs")  # the user set these two
    assert settled.batch_size == 2  # the model does not set it, so this is Stable Diffusion's value
    assert settings.settle(settings.get_config()).steps == 3000


def test_training_uses_and_prints_the_models_settings(model, config, tmp_path, capsys):
    mine = changed(config, model=model, steps=None, preview_prompts=None, learning_rate=0.01, preview_every_steps=0)
    (run,) = loop.learn(mine, tmp_path / "run")
    assert (run.step, run.settings.steps, run.settings.learning_rate) == (2, 2, 0.01)
    said = capsys.readouterr().out
    assert "\nmodel sets  guidance_scale 3, steps 2, preview prompts\n" in said
    assert "training    2 steps of 2 x 1 samples" in said
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["steps"], stored["guidance_scale"], stored["preview_prompts"]) == (2, 3, ["cat <R> dog"])


def test_the_description_lists_settings_of_the_model(config):
    job = prepare.prepare(prepare.settle(config))
    lines = report.describe(job, ("steps", "learning_rate")).splitlines()
    assert lines[1] == "model sets  learning_rate 0.01, steps 6"
    assert report.describe(job, ["preview_prompts"]).splitlines()[1] == "model sets  preview prompts"


def test_the_folder_of_the_miniature_model_has_default_settings():
    own = own_settings.read(settings.MINIATURE)
    assert (own["steps"], own["exemplars"], len(own["preview_prompts"])) == (400, "drawn", 16)
    assert "dreambooth" not in own
    assert own_settings.read_dreambooth(settings.MINIATURE) == {"steps": 200, "batch_size": 8, "learning_rate": 1e-4}
    c = load("miniature")
    c.steps = 7
    assert (prepare.settle(c).steps, prepare.settle(c).resolution) == (7, 64)


def test_single_files_and_hub_ids_have_no_settings_of_their_own(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    for model in (str(tmp_path), str(tmp_path / "checkpoint.safetensors"), "own/er", "nowhere at all"):
        assert own_settings.read(model) == own_settings.read_dreambooth(model) == {}


def test_dreambooth_uses_the_models_recipe_except_for_given_values(model, config, tmp_path, monkeypatch):
    asked = []

    def stop(config, recipe, *_):
        asked.append(recipe)
        raise InterruptedError

    monkeypatch.setattr(dreambooth, "train", stop)
    with pytest.raises(InterruptedError):
        dreambooth.make_model(changed(config, model=model), tmp_path, learning_rate=0.5, word="on")
    assert asked == [dreambooth.Recipe(word="on", steps=3, learning_rate=0.5)]


@pytest.mark.parametrize(
    "values",
    [
        {"initialiser": "and"},
        {"stop_words": "stop_words"},
        {"learning_speed": 1},
        {"steps": "many"},
        {"steps": 2.5},
        {"steps": True},
        {"steps": None},
        {"learning_rate": "3e-3"},
        {"prepositions": "/etc/passwd"},
        {"verbs": "verbs.txt"},
        {"verbs": ["on"]},
        {"exemplars": "exemplars/hug"},
        {"preview_prompts": "cat <R> dog"},
        {"preview_prompts": [1]},
        {"dreambooth": {"word": "sks"}},
        {"dreambooth": {"steps": "many"}},
        {"dreambooth": 200},
    ],
    ids=json.dumps,
)
def test_settings_that_a_model_may_not_set_are_refused(values, tmp_path):
    model = write(tmp_path / "model", {"steps": 2} | values)
    ((key, value),) = values.items()
    for read in (own_settings.read, own_settings.read_dreambooth):
        with pytest.raises(ValueError, match=rf"reversion_jax\.json sets .{key}. to ") as error:
            read(model)
        assert repr(value) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", '"steps"', ""])
def test_a_file_of_settings_without_a_json_object_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match=r"reversion_jax\.json") as error:
        own_settings.read(write(tmp_path / "model", text))
    assert "\n" not in str(error.value)
