"""Tests DreamBooth on a tiny model: training, the loss, resuming, and the saved model."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from config_files import load

from reversion_jax import config as settings
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.drawing import generate
from reversion_jax.inversion.prompts import parse
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs.checkpoints import Checkpoints
from reversion_jax.training import dreambooth
from reversion_jax.weights import folder
from reversion_jax.weights.save import save

RECIPE = dreambooth.Recipe(word="on", steps=6, batch_size=2, learning_rate=1e-3, checkpoints=3)


@pytest.fixture(scope="module")
def made(small_model):
    c = settings.get_config()
    c.model, c.relation, c.resolution, c.sample_steps, c.sample_batch = str(small_model.folder), "hug", 16, 2, 2
    tokenizer = Tokenizer.load(small_model.model.tokenizer_folder, {}, vocab_size=600, length=tiny.LENGTH)
    templates = (("cat {} dog",), ("dog {} cat", "a cat {} a dog"), ("cat {} cat",))
    parsed = tuple(tuple(map(parse, own)) for own in templates)
    shown = Exemplars(np.tanh(tiny.noise(5, (3, 16, 16, 3))), parsed, ())
    return settings.settle(c), small_model.model, tokenizer, shown


def train(made, workdir, **own):
    config, sd, tokenizer, shown = made
    return dreambooth.train(config, dataclasses.replace(RECIPE, **own), sd, tokenizer, shown, workdir)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(made, workdir)


def test_every_weight_of_the_unet_moves_within_the_bound_of_adam(made, whole):
    _, unet = whole
    for before, after in zip(leaves(made[1].params["unet"]), leaves(unet), strict=True):
        moved = np.abs(after - before * (1 - 1e-5) ** 6).max()
        assert 1e-4 < moved < 6.1e-3


def test_a_resumed_training_of_dreambooth_equals_an_uninterrupted_training(made, whole, tmp_path, monkeypatch):
    class Stops(Exception):
        pass

    save, saved = Checkpoints.save, []

    def stop(self, step, tree):
        save(self, step, tree)
        saved.append(step)
        if step == 4:
            raise Stops

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(Stops):
        train(made, tmp_path)
    monkeypatch.undo()
    assert saved == [2, 4]
    for one, other in zip(leaves(train(made, tmp_path)), leaves(whole[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_dreambooth_with_another_recipe_in_the_same_folder_is_refused(made, whole):
    with pytest.raises(ValueError, match="holds a training with another recipe: give a new --workdir"):
        train(made, whole[0], word="top")


def test_prior_pictures_have_the_prompts_of_the_exemplars(made):
    config, sd, tokenizer, shown = made
    own = dreambooth._own_pictures(sd, tokenizer, shown, "and", config)
    assert own.images.shape == (4, 16, 16, 3)
    asked = [prompt.fill("{}") for (prompt,) in own.templates]
    assert asked == ["cat {} dog", "dog {} cat", "a cat {} a dog", "cat {} cat"]


def test_the_loss_of_prior_pictures_is_scaled_by_its_weight(made):
    sd = made[1]
    of = lambda seed, *shape: tiny.noise(seed, shape)
    batch = (of(0, 4, 8, 8, 4), of(1, 4, 8, 8, 4), of(2, 4, tiny.LENGTH, 32), jax.random.key(0))
    loss = jax.jit(
        lambda states, weight: dreambooth.loss(
            sd.params["unet"],
            (*batch[:2], states, batch[3]),
            sd.config.unet,
            sd.schedule,
            dataclasses.replace(RECIPE, prior_weight=weight),
        )
    )
    none, one, three = (loss(batch[2], weight) for weight in (0.0, 1.0, 3.0))
    np.testing.assert_allclose(three - none, 3 * (one - none), rtol=1e-4)
    assert one > 1.5 * none > 0
    others = np.concatenate([batch[2][:2], batch[2][2:] + 1])
    assert loss(others, 0.0) == none
    assert abs(loss(others, 1.0) - one) > 1e-4


def test_the_saved_model_draws_the_same_picture_as_the_trained_model(made, whole, tmp_path):
    _, sd, tokenizer, _ = made
    trained = sd._replace(params={**sd.params, "unet": whole[1]})
    save(tmp_path / "model", trained, dtype=np.float32)
    sampling = generate.Sampling(num_steps=2, guidance_scale=3.0, resolution=16, batch_size=1)
    models = (sd, trained, folder.load(tmp_path / "model"))
    images = [generate.draw(model, tokenizer, ["cat on dog"], [0], sampling=sampling) for model in models]
    assert np.abs(images[0] - images[1]).max() > 0.01
    np.testing.assert_allclose(images[1], images[2], atol=1e-5)


def test_dreambooth_refuses_several_runs_and_a_bucket(tmp_path):
    with pytest.raises(ValueError, match="one model of one relation: give a config without runs"):
        dreambooth.make_model(load("ten_relations"), tmp_path)
    with pytest.raises(ValueError, match="DreamBooth needs a folder of this machine"):
        dreambooth.make_model(load("hug"), "gs://bucket/model")
    assert not list(tmp_path.iterdir())
