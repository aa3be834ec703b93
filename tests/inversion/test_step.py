import dataclasses
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny_step import CONFIG, hyperparameters, loss_of_step, make_data

from reversion_jax.inversion import draws, rows, step
from reversion_jax.models.clip import token_table
from reversion_jax.training import inputs


@pytest.fixture(scope="module")
def first_rows(small_model, tokenizer) -> jax.Array:
    table = small_model.model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    return rows.init(table, [tokenizer.word_ids("on")] * 2)[None]


@pytest.fixture(scope="module")
def run(small_model):
    """A function that trains rows. `counts` has the number of steps of each call of the compiled program."""

    def run(first_rows, data, hyper, counts=(4,), config=CONFIG, capacity=8):
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
                capacity=capacity,
            )
            history.append(jax.tree.map(lambda x, n=count: np.asarray(x[:n]), metrics))
        return np.asarray(state.rows), jax.tree.map(lambda *x: np.concatenate(x), *history)

    return run


def test_training_changes_the_rows_and_nothing_else(run, small_model, data, first_rows):
    before = jax.tree.map(np.array, (small_model.model.params, data))
    learned, metrics = run(first_rows, data, hyperparameters())
    jax.tree.map(np.testing.assert_array_equal, (small_model.model.params, data), before)
    assert (np.abs(learned - first_rows) > 1e-4).any(axis=-1).all()
    assert np.isfinite(metrics.denoising).all()
    assert (metrics.control > 0).all()


@pytest.mark.parametrize(
    "readings", [{}, pytest.param({"adds_inverse": True, "in_epochs": True}, marks=pytest.mark.long)]
)
def test_the_number_of_steps_per_dispatch_changes_no_bit_of_the_result(run, data, first_rows, readings):
    config = dataclasses.replace(CONFIG, **readings)
    together, metrics = run(first_rows, data, hyperparameters(), (5,), config)
    apart, same = run(first_rows, data, hyperparameters(), (1, 3, 1), config)
    np.testing.assert_array_equal(apart, together)
    jax.tree.map(np.testing.assert_array_equal, same, metrics)


def test_steps_without_a_loop_equal_steps_in_a_loop(run, data, first_rows):
    in_loop, metrics = run(first_rows, data, hyperparameters(), (3,))
    one_by_one, same = run(first_rows, data, hyperparameters(), (1, 1, 1), capacity=0)
    np.testing.assert_allclose(one_by_one, in_loop, rtol=1e-5, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), same, metrics)


def test_a_run_trained_together_with_another_run_equals_the_run_alone(run, small_model, tokenizer, data, first_rows):
    other = make_data(tokenizer, small_model.model, 2, ("dog {} cat",), seed=9)
    mine = hyperparameters(seed=3, importance=0.0)
    theirs = hyperparameters(seed=4, learning_rate=5e-2, inverse_share=0.0)
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), mine, theirs)
    company, _ = run(jnp.concatenate([first_rows] * 2), inputs.join_runs([data, other]), joined)
    for i, (run_data, hyper) in enumerate(((data, mine), (other, theirs))):
        alone, _ = run(first_rows, run_data, hyper)
        np.testing.assert_allclose(company[i], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "dtype", "untuned"), [("gpu", "bfloat16", True), ("gpu", "float32", False), ("tpu", "bfloat16", False)]
)
def test_only_the_step_in_bfloat16_on_gpus_is_compiled_without_tuning(platform, dtype, untuned):
    """Also checks that XLA knows the option that switches tuning off."""
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    params = {"unet": {"conv_in": {"kernel": jax.ShapeDtypeStruct((), dtype)}}}
    assert (step.program(params, mesh) is step._untuned) == untuned
    assert (step.program(params, mesh) is step.train_steps) != untuned
    jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_autotune_level": 0})(1.0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_autotune_levels": 0})(1.0)


def test_inverse_rows_stay_unchanged_without_inverse_prompts(run, data, first_rows):
    learned, _ = run(first_rows, data, hyperparameters(inverse_share=0.0))
    np.testing.assert_array_equal(learned[:, 1], first_rows[:, 1])
    assert (learned[:, 0] != first_rows[:, 0]).all()


@pytest.fixture(scope="module")
def gradients(small_model, data):
    """A function that returns the gradient and the losses of step 0 for given rows and other arguments."""
    model, schedule = small_model.model.config, small_model.model.schedule

    @cache
    def compiled(of, config):
        return tiny.quick_jit(partial(of, model=model, schedule=schedule, config=config))

    def gradients(rows, config=CONFIG, hyper=None, params=None, of=step.gradients, data=data):
        hyper = hyper or hyperparameters()
        batch = draws.draw_batch(jnp.int32(0), data, hyper, schedule, config)
        return compiled(of, config)(rows, batch, params or small_model.model.params, hyper)

    return gradients


GROUPS = dataclasses.replace(CONFIG, batch_size=3, accumulation=2)


def test_a_step_is_adamw_applied_to_the_gradient_of_the_loss(run, data, gradients, first_rows):
    # With the usual epsilon, Adam's first step does not depend on the scale of the gradient. With a large
    # epsilon, the step does depend on that scale.
    config = dataclasses.replace(GROUPS, adam_eps=1.0)
    loss, gradient = gradients(first_rows, config, of=lambda *of, **how: jax.value_and_grad(loss_of_step)(*of, **how))
    optimiser = optax.adamw(1e-2, weight_decay=0.01, eps=1.0)
    updates, _ = optimiser.update(gradient, optimiser.init(first_rows), first_rows)
    learned, metrics = run(first_rows, data, hyperparameters(), (1,), config)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(learned - first_rows, updates, rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(metrics.denoising[0] + 0.1 * metrics.control[0], loss, rtol=1e-5)


@pytest.mark.parametrize("at_once", [2, 4])
def test_the_gradient_does_not_depend_on_samples_at_once(gradients, at_once):
    """A step has six samples, which is a multiple of 2 but not of 4."""
    trainable = jnp.asarray(tiny.noise(5, (1, 2, 32))) * 0.3
    whole, losses = gradients(trainable, GROUPS)
    found, same = gradients(trainable, dataclasses.replace(GROUPS, samples_at_once=at_once))
    assert tiny.error(found, whole) < 1e-5
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), same, losses)


def test_added_inverse_prompts_give_the_mean_of_direct_and_inverse_gradients(gradients, data):
    """The test computes the direct and the inverse gradient by two further steps with the same draws.

    A second run has no inverse prompts. The second run's gradient is the same as when that run trains alone. The
    networks take 5 of the 24 prompts at once, and 5 does not divide 24.
    """
    added = dataclasses.replace(GROUPS, adds_inverse=True, samples_at_once=5)
    trainable = jnp.asarray(tiny.noise(5, (2, 2, 32))) * 0.3
    of = lambda run, share: gradients(trainable[run : run + 1], GROUPS, hyperparameters(seed=run, inverse_share=share))
    direct, inverse, without = of(0, 0.0), of(0, 1.0), of(1, 0.0)
    hypers = hyperparameters(seed=0), hyperparameters(seed=1, inverse_share=0.0)
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *hypers)
    found, losses = gradients(trainable, added, joined, data=inputs.join_runs([data, data]))

    assert tiny.error(inverse[0], direct[0]) > 0.01
    mean = jax.tree.map(lambda one, other: (one + other) / 2, direct, inverse)
    for run, (gradient, its_losses) in enumerate((mean, without)):
        assert tiny.error(found[run], gradient[0]) < 1e-5
        jax.tree.map(lambda a, b, run=run: np.testing.assert_allclose(a[run], b[0], rtol=1e-5), losses, its_losses)


def test_the_control_loss_pools_the_words_of_a_micro_batch(small_model, data, first_rows, gradients):
    hyper = hyperparameters(verb_weight=0.3)
    batch = draws.draw_batch(jnp.int32(0), data, hyper, small_model.model.schedule, GROUPS)
    _, metrics = gradients(first_rows, GROUPS, hyper)
    table = np.asarray(token_table(small_model.model.params), np.float64)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    row = unit(np.asarray(first_rows[0, 0], np.float64))

    def mass(ids):
        ids = np.asarray(ids).ravel()
        return np.exp(unit(table[ids[ids >= 0]]) @ row / 0.07).sum()

    def of_group(own):
        against = mass(batch.negatives[:, own])
        toward = [mass(words[:, own]) for words in (batch.verbs, batch.prepositions)]
        return np.dot([0.3, 0.7], [-np.log(words / (words + against)) for words in toward])

    expected = [of_group(slice(start, start + 3)) for start in (0, 3)]
    np.testing.assert_allclose(metrics.control[0], np.mean(expected), rtol=1e-5)


def test_the_control_loss_moves_only_the_rows_of_the_relation(run, data, first_rows):
    hyper = hyperparameters(denoise_weight=0.0, weight_decay=0.0)
    learned, metrics = run(first_rows, data, hyper, (8,))
    np.testing.assert_array_equal(learned[:, 1], first_rows[:, 1])
    assert (learned[:, 0] != first_rows[:, 0]).all()
    assert metrics.control[-3:].mean() < metrics.control[:3].mean()


def test_blurring_noisy_latents_changes_the_rows_unless_sigma_is_zero(run, data, first_rows):
    config = dataclasses.replace(CONFIG, blur_noisy_latents=True)
    plain, _ = run(first_rows, data, hyperparameters())
    off, _ = run(first_rows, data, hyperparameters(latent_sigma=0.0), config=config)
    blurred, _ = run(first_rows, data, hyperparameters(latent_sigma=0.8), config=config)
    np.testing.assert_allclose(off, plain, atol=1e-6)
    assert np.abs(blurred - plain).max() > 1e-4


def row_gradient(gradients, params=None, **changes) -> np.ndarray:
    trainable = jnp.asarray(tiny.noise(5, (1, 2, 32))) * 0.3
    config, hyper = dataclasses.replace(CONFIG, **changes), hyperparameters(control_weight=0.0)
    # Returns only the gradient of <R>. If no prompt of the batch contains <R-inv>, the gradient of <R-inv> is zero.
    return np.asarray(gradients(trainable, config, hyper, params)[0])[:, 0]


def test_rematerialisation_does_not_change_the_gradient(gradients):
    kept, again = (row_gradient(gradients, remat=remat) for remat in (False, True))
    assert tiny.error(again, kept) < 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_weights_give_nearly_the_same_gradient(small_model, gradients, precision):
    """The rows, the losses and the token table stay float32. The networks compute in half precision."""
    params = small_model.model.params
    halved = jax.tree.map(lambda x: x.astype(precision), params)
    embeddings = params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]
    halved["text_encoder"]["text_model"]["embeddings"]["token_embedding"] = embeddings
    whole = row_gradient(gradients)
    found = row_gradient(gradients, {**params, **halved})
    assert found.dtype == np.float32
    assert 1e-5 < tiny.error(found, whole) < (0.1 if precision == "bfloat16" else 0.01)
    assert np.vdot(whole, found) / np.linalg.norm(whole) / np.linalg.norm(found) > 0.999
