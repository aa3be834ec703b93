import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny_step import CONFIG, WORDS, hyperparameters, make_data

from reversion_jax.inversion import rows, step
from reversion_jax.inversion.arrays import SHARED, Data
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.training import inputs


@pytest.fixture(scope="module")
def tokenizer(recorded) -> Tokenizer:
    text = recorded.model.config.text
    return Tokenizer.load(
        recorded.model.tokenizer_folder,
        {"<R>": 1, "<R-inv>": 1},
        vocab_size=text.vocab_size,
        length=text.max_position_embeddings,
    )


@pytest.fixture(scope="module")
def data(recorded, tokenizer) -> Data:
    return make_data(tokenizer, recorded.model, 3)


@pytest.fixture(scope="module")
def first_rows(recorded, tokenizer) -> jax.Array:
    table = recorded.model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return rows.init(table, [tokenizer.word_ids("on")] * 2)[None]


@pytest.fixture(scope="module")
def run(recorded):
    """Trains (rows, data, hyper) for some dispatches of so many steps each."""

    def run(first_rows, data, hyper, counts=(4,), config=CONFIG):
        state, history = step.init_state(first_rows, config), []
        for count in counts:
            state, metrics = step.train_steps(
                state,
                jnp.int32(count),
                recorded.model.params,
                data,
                hyper,
                model=recorded.model.config,
                schedule=recorded.model.schedule,
                config=config,
                capacity=8,
            )
            history.append(jax.tree.map(lambda x, n=count: np.asarray(x[:n]), metrics))
        return np.asarray(state.rows), jax.tree.map(lambda *x: np.concatenate(x), *history)

    return run


def test_rows_learn_and_nothing_else_changes(run, recorded, data, first_rows):
    before = jax.tree.map(np.array, (recorded.model.params, data))
    learned, metrics = run(first_rows, data, hyperparameters())
    jax.tree.map(np.testing.assert_array_equal, (recorded.model.params, data), before)
    assert (np.abs(learned - first_rows) > 1e-4).any(axis=-1).all()
    assert np.isfinite(metrics.denoising).all()
    assert (metrics.control > 0).all()


def test_where_dispatches_are_cut_changes_no_bit(run, data, first_rows):
    together, metrics = run(first_rows, data, hyperparameters(), (5,))
    apart, same = run(first_rows, data, hyperparameters(), (1, 3, 1))
    np.testing.assert_array_equal(apart, together)
    jax.tree.map(np.testing.assert_array_equal, same, metrics)


def test_a_run_in_company_equals_the_run_alone(run, recorded, tokenizer, data, first_rows):
    other = make_data(tokenizer, recorded.model, 2, ("dog {} cat",), seed=9)
    mine = hyperparameters(seed=3, importance=0.0)
    theirs = hyperparameters(seed=4, learning_rate=5e-2, inverse_share=0.0)
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), mine, theirs)
    company, _ = run(jnp.concatenate([first_rows] * 2), inputs.join_runs([data, other]), joined)
    for i, (run_data, hyper) in enumerate(((data, mine), (other, theirs))):
        alone, _ = run(first_rows, run_data, hyper)
        np.testing.assert_allclose(company[i], alone[0], atol=1e-5)


def test_inverse_rows_rest_without_inverse_prompts(run, data, first_rows):
    learned, _ = run(first_rows, data, hyperparameters(inverse_share=0.0))
    np.testing.assert_array_equal(learned[:, 1], first_rows[:, 1])
    assert (learned[:, 0] != first_rows[:, 0]).all()


def test_step_is_adamw_on_the_mean_of_the_micro_batches(run, recorded, data, first_rows):
    # Epsilon as large as the gradients: with the usual one, Adam's first step hides their scale.
    config = dataclasses.replace(CONFIG, accumulation=3, adam_eps=1.0)
    hyper = hyperparameters()
    model, schedule = recorded.model.config, recorded.model.schedule
    loss = partial(step.micro_batch_loss, model=model, schedule=schedule, config=config)
    grad = tiny.quick_jit(jax.grad(loss, has_aux=True))
    results = [
        grad(
            first_rows,
            step.draw_batch(jnp.int32(0), jnp.int32(micro), data, hyper, schedule, config),
            recorded.model.params,
            hyper,
        )
        for micro in range(3)
    ]
    optimiser = optax.adamw(1e-2, weight_decay=0.01, eps=1.0)
    gradient = sum(grads for grads, _ in results) / 3
    updates, _ = optimiser.update(gradient, optimiser.init(first_rows), first_rows)
    learned, metrics = run(first_rows, data, hyper, (1,), config)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(learned - first_rows, updates, rtol=1e-3, atol=1e-8)
    for name in ("denoising", "control"):
        each = [getattr(parts, name)[0] for _, parts in results]
        assert len({float(x) for x in each}) > 1
        np.testing.assert_allclose(getattr(metrics, name)[0, 0], np.mean(each), rtol=1e-5)


def test_control_loss_pools_the_micro_batchs_words(recorded, tokenizer, data, first_rows):
    hyper, (model, schedule) = hyperparameters(verb_weight=0.3), (recorded.model.config, recorded.model.schedule)
    batch = step.draw_batch(jnp.int32(0), jnp.int32(0), data, hyper, schedule, CONFIG)
    loss = jax.jit(partial(step.micro_batch_loss, model=model, schedule=schedule, config=CONFIG))
    control = loss(first_rows, batch, recorded.model.params, hyper)[1].control[0]
    table = recorded.model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    row = unit(np.asarray(first_rows[0, 0], np.float64))

    def mass(ids):
        ids = np.asarray(ids).ravel()
        return np.exp(unit(np.asarray(table, np.float64)[ids[ids >= 0]]) @ row / 0.07).sum()

    against = mass(batch.negatives)
    expected = [-np.log(mass(words) / (mass(words) + against)) for words in (batch.verbs, batch.prepositions)]
    np.testing.assert_allclose(control, 0.3 * expected[0] + 0.7 * expected[1], rtol=1e-5)


def test_steps_micro_batches_and_runs_draw_afresh(recorded, data):
    draw = lambda at, micro, seed: step.draw_batch(
        jnp.int32(at), jnp.int32(micro), data, hyperparameters(seed=seed), recorded.model.schedule, CONFIG
    )
    noises = [np.asarray(draw(*which).noise) for which in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    for i, one in enumerate(noises):
        assert all((one != other).all() for other in noises[:i])


def test_importance_makes_later_timesteps_likelier(recorded, data):
    means = [draws(data, 3000, recorded.model.schedule, importance=a).timestep.mean() for a in (0.0, 0.9)]
    assert abs(means[0] - 499.5) < 25
    # The mean of f(t) is T/2 (1 + 4 alpha / pi^2) for alpha.
    assert abs(means[1] - 500 * (1 + 4 * 0.9 / np.pi**2)) < 25


def test_control_loss_moves_only_the_relation(run, data, first_rows):
    hyper = hyperparameters(denoise_weight=0.0, weight_decay=0.0)
    learned, metrics = run(first_rows, data, hyper, (8,))
    np.testing.assert_array_equal(learned[:, 1], first_rows[:, 1])
    assert (learned[:, 0] != first_rows[:, 0]).all()
    assert metrics.control[-3:].mean() < metrics.control[:3].mean()


def draws(data, count, schedule, config=CONFIG, **changes) -> step.Sample:
    one_run = data._replace(**{k: v[0] for k, v in data._asdict().items() if k not in SHARED})
    hyper = jax.tree.map(lambda x: x[0], hyperparameters(**changes))
    keys = jax.random.split(jax.random.key(1), count)
    return jax.jit(jax.vmap(lambda key: step.draw_sample(key, one_run, hyper, schedule, config)))(keys)


def test_a_sample_depends_on_its_own_index_alone(recorded, data):
    schedule, hyper = recorded.model.schedule, hyperparameters()
    draw = lambda size: step.draw_batch(
        jnp.int32(2), jnp.int32(0), data, hyper, schedule, dataclasses.replace(CONFIG, batch_size=size)
    )
    jax.tree.map(lambda few, many: np.testing.assert_array_equal(few, many[:, :2]), draw(2), draw(5))


def test_posterior_is_sampled_afresh(recorded, data):
    sample = draws(data, 400, recorded.model.schedule)
    deviations = []
    for mean, std in zip(data.mean[0], data.std[0], strict=True):
        distance = np.abs(sample.latents - mean[None]).mean(axis=(1, 2, 3))
        nearest = distance < 6 * float(jnp.mean(std))
        deviations.append(((sample.latents - mean[None]) / std[None])[nearest])
    pooled = np.concatenate([x.ravel() for x in deviations])
    assert len(np.unique(sample.latents[:, 0, 0, 0])) == 400
    assert abs(pooled.std() - 1) < 0.3


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_inverse_prompts(recorded, data, tokenizer, share):
    sample = draws(data, 2000, recorded.model.schedule, inverse_share=share)
    inverse = np.isin(sample.ids, tokenizer.placeholder_ids("<R-inv>")).any(axis=-1)
    assert abs(inverse.mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000) + 1e-9
    assert np.isin(sample.ids, tokenizer.placeholder_ids("<R>")).any(axis=-1).all()


def test_what_was_padded_is_never_drawn(recorded, tokenizer, data):
    small = make_data(tokenizer, recorded.model, 2, ("dog {} cat",), seed=9)
    joined = inputs.join_runs([small, data])
    assert joined.mean.shape[1] == 3
    assert joined.ids.shape[2] == 2
    sample = draws(joined, 500, recorded.model.schedule)
    assert (sample.ids != 0).any(axis=-1).all()
    assert {tuple(ids) for ids in np.asarray(sample.ids)} == {tuple(ids) for ids in small.ids[0, 0, 0].tolist()}


def test_positives_are_drawn_without_replacement_and_negatives_are_the_other_words(recorded, tokenizer, data):
    sample = draws(data, 200, recorded.model.schedule)
    relation_words = {i for word in WORDS["prepositions"] for i in tokenizer.word_ids(word)}
    for words in np.asarray(sample.prepositions):
        kept = words[words >= 0].tolist()
        assert len(kept) == len(set(kept)) == 2
        assert set(kept) <= relation_words
    # "cat" and "photo" are verbs here and "of" a preposition, so "dog" alone is left.
    dog = set(tokenizer.word_ids("dog"))
    assert {i for i in np.asarray(sample.negatives).ravel().tolist() if i >= 0} == dog


def test_vocabulary_negatives(recorded, data, tokenizer):
    config = dataclasses.replace(CONFIG, vocabulary_negatives=7)
    sample = draws(data, 50, recorded.model.schedule, config)
    assert sample.negatives.shape == (50, 7)
    neutral = inputs.neutral_ids(tokenizer, **WORDS)
    assert not neutral & set(np.asarray(sample.negatives).ravel().tolist())


def test_noisy_latents_can_be_blurred(run, data, first_rows):
    config = dataclasses.replace(CONFIG, blur_noisy_latents=True)
    plain, _ = run(first_rows, data, hyperparameters())
    off, _ = run(first_rows, data, hyperparameters(latent_sigma=0.0), config=config)
    blurred, _ = run(first_rows, data, hyperparameters(latent_sigma=0.8), config=config)
    np.testing.assert_allclose(off, plain, atol=1e-6)
    assert np.abs(blurred - plain).max() > 1e-4


def row_gradient(recorded, tokenizer, data, params, **changes) -> np.ndarray:
    config = dataclasses.replace(CONFIG, **changes)
    model, schedule = recorded.model.config, recorded.model.schedule
    hyper = hyperparameters(control_weight=0.0)
    batch = step.draw_batch(jnp.int32(0), jnp.int32(0), data, hyper, schedule, config)
    loss = partial(step.micro_batch_loss, model=model, schedule=schedule, config=config)
    trainable = jnp.asarray(tiny.noise(5, (1, 2, 32))) * 0.3
    grads, _ = tiny.quick_jit(jax.grad(loss, has_aux=True))(trainable, batch, params, hyper)
    return np.asarray(grads)[:, 0]  # <R>'s; without control loss, and <R-inv> may be in none of the prompts


def test_rematerialisation_changes_no_gradient(recorded, tokenizer, data):
    kept, again = (row_gradient(recorded, tokenizer, data, recorded.model.params, remat=remat) for remat in (0, 1))
    assert tiny.error(again, kept) < 1e-5


def test_bfloat16_weights_give_nearly_the_gradient(recorded, tokenizer, data):
    """Rows, losses and the token table stay float32; what computes between them is rounded."""
    params = recorded.model.params
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    embeddings = params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]
    halved["text_encoder"]["text_model"]["embeddings"]["token_embedding"] = embeddings
    whole = row_gradient(recorded, tokenizer, data, params)
    found = row_gradient(recorded, tokenizer, data, {**params, **halved})
    assert found.dtype == np.float32
    assert 1e-4 < tiny.error(found, whole) < 0.1
    assert np.vdot(whole, found) / np.linalg.norm(whole) / np.linalg.norm(found) > 0.99
