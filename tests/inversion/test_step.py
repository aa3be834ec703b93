import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny_step import CONFIG, hyperparameters, make_data

from reversion_jax.inversion import draws, rows, step
from reversion_jax.training import inputs


@pytest.fixture(scope="module")
def first_rows(small_model, tokenizer) -> jax.Array:
    table = small_model.model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return rows.init(table, [tokenizer.word_ids("on")] * 2)[None]


@pytest.fixture(scope="module")
def run(small_model):
    """Trains (rows, data, hyper) for some dispatches of so many steps each."""

    def run(first_rows, data, hyper, counts=(4,), config=CONFIG):
        state, history = step.init_state(first_rows, config), []
        for count in counts:
            state, metrics = step.train_steps(
                state,
                jnp.int32(count),
                small_model.model.params,
                data,
                hyper,
                model=small_model.model.config,
                schedule=small_model.model.schedule,
                config=config,
                capacity=8,
            )
            history.append(jax.tree.map(lambda x, n=count: np.asarray(x[:n]), metrics))
        return np.asarray(state.rows), jax.tree.map(lambda *x: np.concatenate(x), *history)

    return run


def test_rows_learn_and_nothing_else_changes(run, small_model, data, first_rows):
    before = jax.tree.map(np.array, (small_model.model.params, data))
    learned, metrics = run(first_rows, data, hyperparameters())
    jax.tree.map(np.testing.assert_array_equal, (small_model.model.params, data), before)
    assert (np.abs(learned - first_rows) > 1e-4).any(axis=-1).all()
    assert np.isfinite(metrics.denoising).all()
    assert (metrics.control > 0).all()


def test_where_dispatches_are_cut_changes_no_bit(run, data, first_rows):
    together, metrics = run(first_rows, data, hyperparameters(), (5,))
    apart, same = run(first_rows, data, hyperparameters(), (1, 3, 1))
    np.testing.assert_array_equal(apart, together)
    jax.tree.map(np.testing.assert_array_equal, same, metrics)


def test_a_run_in_company_equals_the_run_alone(run, small_model, tokenizer, data, first_rows):
    other = make_data(tokenizer, small_model.model, 2, ("dog {} cat",), seed=9)
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


def test_step_is_adamw_on_the_mean_of_the_micro_batches(run, small_model, data, first_rows):
    # Epsilon as large as the gradients: with the usual one, Adam's first step hides their scale.
    config = dataclasses.replace(CONFIG, accumulation=3, adam_eps=1.0)
    hyper = hyperparameters()
    model, schedule = small_model.model.config, small_model.model.schedule
    loss = partial(step.micro_batch_loss, model=model, schedule=schedule, config=config)
    grad = tiny.quick_jit(jax.grad(loss, has_aux=True))
    results = [
        grad(
            first_rows,
            draws.draw_batch(jnp.int32(0), jnp.int32(micro), data, hyper, schedule, config),
            small_model.model.params,
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


def test_control_loss_pools_the_micro_batchs_words(small_model, tokenizer, data, first_rows):
    hyper, (model, schedule) = hyperparameters(verb_weight=0.3), (small_model.model.config, small_model.model.schedule)
    batch = draws.draw_batch(jnp.int32(0), jnp.int32(0), data, hyper, schedule, CONFIG)
    loss = jax.jit(partial(step.micro_batch_loss, model=model, schedule=schedule, config=CONFIG))
    control = loss(first_rows, batch, small_model.model.params, hyper)[1].control[0]
    table = small_model.model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    row = unit(np.asarray(first_rows[0, 0], np.float64))

    def mass(ids):
        ids = np.asarray(ids).ravel()
        return np.exp(unit(np.asarray(table, np.float64)[ids[ids >= 0]]) @ row / 0.07).sum()

    against = mass(batch.negatives)
    expected = [-np.log(mass(words) / (mass(words) + against)) for words in (batch.verbs, batch.prepositions)]
    np.testing.assert_allclose(control, 0.3 * expected[0] + 0.7 * expected[1], rtol=1e-5)


def test_control_loss_moves_only_the_relation(run, data, first_rows):
    hyper = hyperparameters(denoise_weight=0.0, weight_decay=0.0)
    learned, metrics = run(first_rows, data, hyper, (8,))
    np.testing.assert_array_equal(learned[:, 1], first_rows[:, 1])
    assert (learned[:, 0] != first_rows[:, 0]).all()
    assert metrics.control[-3:].mean() < metrics.control[:3].mean()


def test_noisy_latents_can_be_blurred(run, data, first_rows):
    config = dataclasses.replace(CONFIG, blur_noisy_latents=True)
    plain, _ = run(first_rows, data, hyperparameters())
    off, _ = run(first_rows, data, hyperparameters(latent_sigma=0.0), config=config)
    blurred, _ = run(first_rows, data, hyperparameters(latent_sigma=0.8), config=config)
    np.testing.assert_allclose(off, plain, atol=1e-6)
    assert np.abs(blurred - plain).max() > 1e-4


def row_gradient(small_model, tokenizer, data, params, **changes) -> np.ndarray:
    config = dataclasses.replace(CONFIG, **changes)
    model, schedule = small_model.model.config, small_model.model.schedule
    hyper = hyperparameters(control_weight=0.0)
    batch = draws.draw_batch(jnp.int32(0), jnp.int32(0), data, hyper, schedule, config)
    loss = partial(step.micro_batch_loss, model=model, schedule=schedule, config=config)
    trainable = jnp.asarray(tiny.noise(5, (1, 2, 32))) * 0.3
    grads, _ = tiny.quick_jit(jax.grad(loss, has_aux=True))(trainable, batch, params, hyper)
    return np.asarray(grads)[:, 0]  # <R>'s; without control loss, and <R-inv> may be in none of the prompts


def test_rematerialisation_changes_no_gradient(small_model, tokenizer, data):
    kept, again = (
        row_gradient(small_model, tokenizer, data, small_model.model.params, remat=remat) for remat in (0, 1)
    )
    assert tiny.error(again, kept) < 1e-5


def test_bfloat16_weights_give_nearly_the_gradient(small_model, tokenizer, data):
    """Rows, losses and the token table stay float32; what computes between them is rounded."""
    params = small_model.model.params
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    embeddings = params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]
    halved["text_encoder"]["text_model"]["embeddings"]["token_embedding"] = embeddings
    whole = row_gradient(small_model, tokenizer, data, params)
    found = row_gradient(small_model, tokenizer, data, {**params, **halved})
    assert found.dtype == np.float32
    assert 1e-4 < tiny.error(found, whole) < 0.1
    assert np.vdot(whole, found) / np.linalg.norm(whole) / np.linalg.norm(found) > 0.99
