"""Tests the random draws of a training step: exemplars, prompts, noise, timesteps, positives and negatives."""

import dataclasses
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_step import CONFIG, WORDS, hyperparameters, make_data

from reversion_jax.data.exemplars import Exemplars
from reversion_jax.inversion import draws
from reversion_jax.inversion.arrays import SHARED
from reversion_jax.inversion.prompts import parse
from reversion_jax.inversion.words import load
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.training import inputs


@cache
def compiled(schedule, config):
    """Returns draw_sample for many keys, and draw_batch, compiled. Tests with equal shapes share a compiled program."""
    of_keys = jax.vmap(partial(draws.draw_sample, schedule=schedule, config=config), in_axes=(0, None, None))
    return tiny.quick_jit(of_keys), tiny.quick_jit(partial(draws.draw_batch, schedule=schedule, config=config))


def drawn(data, count, schedule, config=CONFIG, **changes) -> draws.Sample:
    one_run = data._replace(**{k: v[0] for k, v in data._asdict().items() if k not in SHARED})
    hyper = jax.tree.map(lambda x: x[0], hyperparameters(**changes))
    draw, _ = compiled(schedule, config)
    return draw(jax.random.split(jax.random.key(1), count), one_run, hyper)


def batch(step, data, hyper, schedule, config=CONFIG) -> draws.Sample:
    _, draw = compiled(schedule, config)
    return draw(jnp.int32(step), data, hyper)


def test_noise_differs_between_steps_between_samples_and_between_runs(small_model, data):
    draw = lambda at, seed: batch(at, data, hyperparameters(seed=seed), small_model.model.schedule).noise[0]
    noises = [np.asarray(noise) for which in ((0, 0), (1, 0), (0, 1)) for noise in draw(*which)]
    assert len(noises) == 6
    for i, one in enumerate(noises):
        assert all((one != other).all() for other in noises[:i])


def test_importance_makes_later_timesteps_likelier(small_model, data):
    means = [drawn(data, 3000, small_model.model.schedule, importance=a).timestep.mean() for a in (0.0, 0.9)]
    assert abs(means[0] - 499.5) < 25
    # With the probabilities f(t), the mean timestep is T/2 (1 + 4 alpha / pi^2).
    assert abs(means[1] - 500 * (1 + 4 * 0.9 / np.pi**2)) < 25


def test_a_sample_does_not_depend_on_the_batch_size(small_model, data):
    config = lambda size: dataclasses.replace(CONFIG, batch_size=size)
    draw = lambda size: batch(2, data, hyperparameters(), small_model.model.schedule, config(size))
    jax.tree.map(lambda few, many: np.testing.assert_array_equal(few, many[:, :2]), draw(2), draw(5))


def test_each_draw_takes_a_new_sample_from_the_posterior_of_the_vae(small_model, data):
    sample = drawn(data, 400, small_model.model.schedule)
    deviations = []
    for mean, std in zip(data.mean[0], data.std[0], strict=True):
        distance = np.abs(sample.latents - mean[None]).mean(axis=(1, 2, 3))
        nearest = distance < 6 * float(jnp.mean(std))
        deviations.append(((sample.latents - mean[None]) / std[None])[nearest])
    pooled = np.concatenate([x.ravel() for x in deviations])
    assert len(np.unique(sample.latents[:, 0, 0, 0])) == 400
    assert abs(pooled.std() - 1) < 0.3


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_given_share_of_samples_has_inverse_prompts(small_model, data, tokenizer, share):
    sample = drawn(data, 2000, small_model.model.schedule, inverse_share=share)
    inverse = np.isin(sample.ids, tokenizer.placeholder_ids("<R-inv>")).any(axis=-1)
    assert abs(inverse.mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000) + 1e-9
    assert np.isin(sample.ids, tokenizer.placeholder_ids("<R>")).any(axis=-1).all()


def test_adding_inverse_prompts_does_not_change_the_other_draws(small_model, data, tokenizer):
    added = dataclasses.replace(CONFIG, adds_inverse=True)
    draw = lambda config, share: drawn(data, 50, small_model.model.schedule, config, inverse_share=share)
    both, direct, inverse = draw(added, 0.5), draw(CONFIG, 0.0), draw(CONFIG, 1.0)
    jax.tree.map(np.testing.assert_array_equal, both._replace(inverse_ids=None), direct)
    np.testing.assert_array_equal(both.inverse_ids, inverse.ids)
    assert np.isin(both.inverse_ids, tokenizer.placeholder_ids("<R-inv>")).any(axis=-1).all()
    # Negatives come from the direct prompt alone, because the inverse prompt has the same words.
    np.testing.assert_array_equal(np.sort(both.negatives), np.sort(inverse.negatives))
    without = draw(added, 0.0)
    np.testing.assert_array_equal(without.inverse_ids, without.ids)


def test_an_epoch_has_each_exemplar_a_hundred_times(small_model, tokenizer, data):
    """Each step has seven samples, so an epoch ends within a step.

    A run of two exemplars trains together with a run of three exemplars.
    """
    config = dataclasses.replace(CONFIG, batch_size=7, in_epochs=True)

    @tiny.quick_jit
    def first_numbers(data, hyper):
        draw = partial(draws.draw_batch, data=data, hyper=hyper, schedule=small_model.model.schedule, config=config)
        return jax.vmap(lambda step: draw(step).latents[..., 0, 0, 0])(jnp.arange(100))

    def shown(data, hyper=None) -> np.ndarray:
        """Returns the exemplar number of each sample of 100 steps, [R, 700], from latents with std 0."""
        found = first_numbers(data._replace(std=jnp.zeros_like(data.std)), hyper or hyperparameters())
        is_it = np.asarray(found)[..., None] == np.asarray(data.mean)[None, :, None, :, 0, 0, 0]
        assert (is_it.sum(axis=-1) == 1).all()
        return is_it.argmax(axis=-1).transpose(1, 0, 2).reshape(len(data.mean), -1)

    (alone,) = shown(data)
    epochs = alone[:600].reshape(2, 300)
    for epoch in epochs:
        np.testing.assert_array_equal(np.bincount(epoch), [100, 100, 100])
    # Two independent orders of three exemplars differ at 2/3 of the places. Within one order, neighbouring places have
    # different exemplars in 2/3 of the cases.
    for one, other in (epochs, (alone[1:], alone[:-1]), (alone, shown(data, hyperparameters(seed=1))[0])):
        assert 0.55 < (one != other).mean() < 0.78

    fewer = make_data(tokenizer, small_model.model, 2, seed=9)
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), hyperparameters())
    company = shown(inputs.join_runs([fewer, data]), both)
    np.testing.assert_array_equal(company[0], shown(fewer)[0])
    np.testing.assert_array_equal(company[1], alone)
    np.testing.assert_array_equal(np.bincount(company[0, :200]), [100, 100])


def test_padding_is_never_drawn(small_model, tokenizer, data):
    fewer = make_data(tokenizer, small_model.model, 2, ("dog {} cat",), seed=9)
    joined = inputs.join_runs([fewer, data])
    assert joined.mean.shape[1] == 3
    assert joined.ids.shape[2] == 2
    sample = drawn(joined, 500, small_model.model.schedule)
    assert (sample.ids != 0).any(axis=-1).all()
    assert {tuple(ids) for ids in np.asarray(sample.ids)} == {tuple(ids) for ids in fewer.ids[0, 0, 0].tolist()}


def test_positives_have_no_repeats_and_negatives_are_the_other_words_of_prompts(small_model, tokenizer, data):
    sample = drawn(data, 200, small_model.model.schedule)
    relation_words = {i for word in WORDS["prepositions"] for i in tokenizer.word_ids(word)}
    for words in np.asarray(sample.prepositions):
        kept = words[words >= 0].tolist()
        assert len(kept) == len(set(kept)) == 2
        assert set(kept) <= relation_words
    # In these tests "cat" and "photo" are verbs and "of" is a preposition, so only "dog" can be a negative.
    dog = set(tokenizer.word_ids("dog"))
    assert {i for i in np.asarray(sample.negatives).ravel().tolist() if i >= 0} == dog


def test_vocabulary_negatives_are_drawn_in_the_given_number(small_model, tokenizer):
    config = dataclasses.replace(CONFIG, vocabulary_negatives=7)
    data = make_data(tokenizer, small_model.model, 3, negatives="vocabulary")
    sample = drawn(data, 50, small_model.model.schedule, config)
    assert sample.negatives.shape == (50, 7)
    # "dog" is the only whole word of the tiny vocabulary that is neither a relation word nor a stop word.
    assert set(np.asarray(sample.negatives).ravel().tolist()) == set(tokenizer.word_ids("dog"))


class ClipBackend:
    """A tokenizer with CLIP's vocabulary and the interface of transformers' tokenizers."""

    all_special_ids = (49406, 49407)
    bos_token_id, eos_token_id, pad_token_id = 49406, 49407, 49407

    def __init__(self):
        self.clip = pytest.importorskip("instant_clip_tokenizer", reason="has CLIP's vocabulary").Tokenizer()
        self.tokens = [re.sub(" $", "</w>", self.clip.decode([i])) for i in range(49408)]

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def __call__(self, texts, **_):
        return {"input_ids": [self.clip.encode(text) for text in texts], "offset_mapping": []}


def test_vocabulary_negatives_are_whole_words_without_positives(small_model, data):
    """No negative is a piece of a word, a digit, a sign, a positive word or its token, or a stop word."""
    backend = ClipBackend()
    clip = Tokenizer(backend, 49408, 77, {"<R>": 1, "<R-inv>": 1})
    lists = {name: load(name) for name in ("prepositions", "verbs", "stop_words")}
    lists["prepositions"] = (*lists["prepositions"], "astride")  # has two tokens
    shown = Exemplars(np.zeros((1, 16, 16, 3), np.float32), ((parse("cat {} stone"),),), ("0",))
    latents = data.mean[0, :1], data.std[0, :1]
    prepare = partial(inputs.prepare_run, shown, clip, latents, **lists, inverse=True)
    config = dataclasses.replace(CONFIG, vocabulary_negatives=10_000)
    sample = drawn(prepare(negatives="vocabulary"), 20, small_model.model.schedule, config)
    found = {backend.tokens[i] for i in np.unique(sample.negatives)}
    assert len(found) > 30_000
    assert [token for token in found if not re.fullmatch("[a-z]{3,}</w>", token)] == []
    assert {"horse</w>", "stone</w>"} <= found
    taken = {backend.tokens[i] for own in lists.values() for word in own for i in clip.word_ids(word)}
    assert {"on</w>", "hugging</w>", "the</w>", "astri"} <= taken
    assert not found & taken
    # If the run does not steer towards verbs, verbs can be negatives. Before version 0.5, any token could be a
    # negative.
    hugging = clip.word_ids("hugging")
    assert np.isin(hugging, prepare(negatives="vocabulary", steers_to_verbs=False).vocabulary)
    assert np.isin(clip.word_ids("7"), prepare(negatives="tokens").vocabulary)


def test_vocabulary_negatives_are_refused_if_the_tokenizer_has_no_other_words(tokenizer, data):
    shown = Exemplars(np.zeros((1, 16, 16, 3), np.float32), ((parse("cat {} dog"),),), ("0",))
    lists = WORDS | {"stop_words": ("dog",)}
    arguments = (shown, tokenizer, (data.mean[0, :1], data.std[0, :1]))
    inputs.prepare_run(*arguments, **lists, inverse=True)
    with pytest.raises(ValueError, match=r"config\.negatives='vocabulary': the model's tokenizer has no words"):
        inputs.prepare_run(*arguments, **lists, inverse=True, negatives="vocabulary")
