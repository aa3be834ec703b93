"""Tests drawing. An image must not depend on the images that are drawn together with it."""

import jax
import numpy as np
import pytest
import tiny

from reversion_jax.config import Settings, settle
from reversion_jax.diffusion import own_sampler
from reversion_jax.drawing import generate, texts
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.vae import VAE
from reversion_jax.runtime.errors import Caution


@pytest.fixture(scope="module")
def draw(recorded):
    """Returns a function that draws images of 16 px with the tiny model in 2 steps.

    The function's arguments are prompts, seeds, learned rows, and values of `Sampling`.
    """
    sd = recorded.model
    tokenizer = Tokenizer.load(sd.tokenizer_folder, {"<R>": 1}, vocab_size=600, length=tiny.LENGTH)
    learned = tiny.noise(3, (1, 32))

    def draw(prompts, seeds, rows=learned, **values):
        values = {"num_steps": 2, "guidance_scale": 3.0, "resolution": 16, "batch_size": 2} | values
        return generate.draw(sd, tokenizer, prompts, seeds, rows, sampling=generate.Sampling(**values))

    return draw


@pytest.mark.parametrize("sampler", ["euler_ancestral", "pndm"])
def test_an_image_drawn_with_others_equals_the_same_image_drawn_alone(draw, sampler):
    prompts = ["cat <R> dog", "dog", "cat <R> dog", "a photo of dog on top of cat", ""]
    together = draw(prompts, [5, 6, 7, 8, 9], sampler=sampler)
    for i in (2, 3):
        alone = draw(prompts[i : i + 1], [5 + i], sampler=sampler)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-4)
    assert np.abs(together[0] - together[2]).max() > 0.01  # both images have the same prompt but other noise
    assert np.abs(draw(["dog"], [8]) - draw(["cat"], [8])).max() > 0.01


def test_each_distinct_prompt_is_encoded_once(draw, monkeypatch):
    encoded = []

    def spy(params, model, ids, rows):
        encoded.extend(map(tuple, ids.tolist()))
        return spied(params, model, ids, rows)

    spied = texts.encode_text
    monkeypatch.setattr(texts, "encode_text", spy)
    draw(["cat"] * 5 + ["dog"] * 4, range(9), batch_size=3)
    assert len(encoded) == len(set(encoded)) == 3  # the prompts cat and dog, and the negative prompt


def test_decoding_images_in_slices_does_not_change_them(recorded, monkeypatch):
    config, params = recorded.model.config.vae, recorded.model.params
    latents = tiny.noise(0, (5, 8, 8, 4))
    whole = VAE(config).apply({"params": params["vae"]}, latents, method="decode")
    monkeypatch.setattr(generate, "_DECODED_PIXELS", 2 * 16 * 16)
    np.testing.assert_allclose(generate.decode(params, config, latents), whole, atol=1e-5)


def test_decoding_memory_does_not_grow_with_the_number_of_images(recorded):
    config, params = recorded.model.config.vae, recorded.model.params

    def temporaries(count):
        latents = jax.ShapeDtypeStruct((count, 256, 256, 4), np.float32)
        decode = jax.jit(lambda params, latents: generate.decode(params, config, latents))
        return decode.lower(params, latents).compile().memory_analysis().temp_size_in_bytes

    pictures = 6 * 512 * 512 * 3 * 4  # bytes of six decoded images; up to two copies of them are allowed
    assert temporaries(8) - temporaries(2) < 2 * pictures < 0.5 * temporaries(2)


@pytest.mark.parametrize("resolution", [0, 15])
def test_a_resolution_that_the_model_cannot_draw_is_refused(draw, resolution):
    with pytest.raises(ValueError, match="must be a multiple of 2 for this model"):
        draw(["cat"], [0], resolution=resolution)


def test_the_default_sampler_is_the_models_own(draw, recorded):
    own = draw(["cat"], [0], sampler="auto")
    np.testing.assert_array_equal(own, draw(["cat"], [0], sampler=recorded.model.own_sampler.name))
    assert (own != draw(["cat"], [0], sampler="euler")).any()


def test_drawing_warns_if_the_sampler_of_the_model_is_not_supported(recorded):
    sd = recorded.model._replace(own_sampler=own_sampler.OwnSampler("euler", "linspace", "LMSDiscreteScheduler"))
    tokenizer = Tokenizer.load(sd.tokenizer_folder, vocab_size=600, length=tiny.LENGTH)
    how = generate.Sampling(num_steps=2, resolution=16, batch_size=2)
    with pytest.warns(Caution, match="the model's own sampler, LMSDiscreteScheduler, is not supported"):
        generate.draw(sd, tokenizer, ["cat"], [0], sampling=how)


def test_drawing_refuses_an_unknown_sampler(draw):
    with pytest.raises(ValueError, match="use one of ddim"):
        draw(["cat"], [0], sampler="magic")


def test_missing_seeds_and_missing_rows_are_refused(draw):
    with pytest.raises(ValueError, match="2 prompts with 1 seeds"):
        draw(["cat", "dog"], [0])
    with pytest.raises(ValueError, match="placeholders need more than the 0 rows given"):
        draw(["cat <R> dog"], [0], rows=None)


def test_settings_become_values_of_sampling():
    settings = settle(Settings(sample_steps=3, guidance_scale=2.0, sampler="pndm", negative_prompt="cat"))
    assert generate.Sampling.of(settings) == generate.Sampling(3, 2.0, 512, "pndm", "cat", 4)
    assert generate.Sampling.of(settings, at_most=1).batch_size == 1
    assert generate.Sampling.of(settings, at_most=9).batch_size == 4
