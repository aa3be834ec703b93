"""Compares the losses with NumPy code in float64 that follows the equations and ReVersion's published behaviour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reversion_jax.inversion import losses

R, S, K, M, D = 3, 2, 5, 7, 16

control = jax.jit(losses.control)
steering = jax.jit(losses.steering)


def _words(seed=0):
    """Returns verbs, prepositions and negatives of three runs, with masks. In run 2, all verbs are masked out."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32) * rng.uniform(0.1, 5)
    masks = [rng.random((R, count)) < 0.6 for count in (K, K + 1, M)]
    for mask in masks:
        mask[:, 0] = True
    masks[0][2] = False
    return {
        "rows": draw(R, S, D),
        "verbs": draw(R, K, D),
        "verb_mask": masks[0],
        "prepositions": draw(R, K + 1, D),
        "preposition_mask": masks[1],
        "negatives": draw(R, M, D),
        "negative_mask": masks[2],
        "verb_weight": np.float32([0.8, 0.2, 0.0]),
        "temperature": np.float32([0.07, 0.5, 0.07]),
    }


def _equation(row, positives, negatives, temperature):
    """Returns L_x (Eq. 5 and 6) of one row in float64. L_x is the logarithm; the loss is its negative."""
    row, positives, negatives = (np.asarray(x, np.float64) for x in (row, positives, negatives))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    toward = np.exp(unit(positives) @ unit(row) / temperature).sum()
    away = np.exp(unit(negatives) @ unit(row) / temperature).sum()
    return np.log(toward / (toward + away))


def _control(w, run, row):
    """Returns −(λ_verb L_verb + λ_prep L_prep) of one row, with λ_verb + λ_prep = 1 (Eq. 4, 7)."""
    weight, gamma = float(w["verb_weight"][run]), float(w["temperature"][run])
    negatives = w["negatives"][run][w["negative_mask"][run]]
    terms = [
        _equation(row, w[words][run][w[mask][run]], negatives, gamma)
        for words, mask in (("verbs", "verb_mask"), ("prepositions", "preposition_mask"))
        if w[mask][run].any()
    ]
    return -(weight * terms[0] + (1 - weight) * terms[1]) if len(terms) == 2 else -terms[0]


def _reversion(row, prepositions, negatives, temperature):
    """Returns ReVersion's steering loss (Eq. 3), computed word by word."""
    row = row / np.linalg.norm(row)
    pull = sum(np.exp(np.dot(row, p / np.linalg.norm(p)) / temperature) for p in prepositions)
    push = sum(np.exp(np.dot(row, n / np.linalg.norm(n)) / temperature) for n in negatives)
    return -np.log(pull / (pull + push))


def test_the_denoising_loss_is_the_mean_over_a_samples_elements():
    rng = np.random.default_rng(0)
    prediction, noise = rng.normal(size=(2, 2, 3, 4, 6, 5))  # two arrays [R, N, H, W, C]
    expected = np.mean((noise - prediction) ** 2, axis=(2, 3, 4))
    got = losses.denoising(jnp.asarray(prediction, jnp.float32), jnp.asarray(noise, jnp.float32))
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # If a network's output is in bfloat16, the loss is still squared and summed in float32.
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (prediction, noise)]
    expected = np.mean(np.subtract(*(np.asarray(x, np.float64) for x in rounded)) ** 2, axis=(2, 3, 4))
    np.testing.assert_allclose(losses.denoising(*rounded), expected, rtol=1e-6)


def test_the_control_loss_equals_the_equation():
    w = _words()
    expected = [np.mean([_control(w, run, row) for row in w["rows"][run]]) for run in range(R)]
    np.testing.assert_allclose(control(**w), expected, rtol=2e-6)


def test_without_verbs_the_control_loss_is_reversions_steering_loss():
    w = _words() | {"verb_weight": np.zeros(R, np.float32), "temperature": np.full(R, 0.07, np.float32)}
    expected = [
        np.mean(
            [
                _reversion(
                    row.astype(np.float64),
                    w["prepositions"][run][w["preposition_mask"][run]],
                    w["negatives"][run][w["negative_mask"][run]],
                    0.07,
                )
                for row in w["rows"][run]
            ]
        )
        for run in range(R)
    ]
    np.testing.assert_allclose(control(**w), expected, rtol=2e-6)


def test_the_control_gradient_equals_that_of_the_equations_and_only_rows_get_a_gradient():
    w = _words()
    vectors = ("rows", "verbs", "prepositions", "negatives")

    @jax.jit
    @jax.grad
    def gradient(vectors):
        return losses.control(**(w | vectors)).sum()

    gradients = gradient({name: w[name] for name in vectors})
    for constant in vectors[1:]:
        assert not np.any(gradients[constant])
    expected, step = np.zeros((R, S, D)), 1e-5
    for index in np.ndindex(R, S, D):
        row = w["rows"][index[:2]].astype(np.float64)
        up, down = (row + sign * step * np.eye(D)[index[2]] for sign in (1, -1))
        expected[index] = (_control(w, index[0], up) - _control(w, index[0], down)) / (2 * step) / S
    np.testing.assert_allclose(gradients["rows"], expected, rtol=1e-3, atol=1e-5)


def test_the_control_loss_of_a_run_does_not_depend_on_other_runs():
    w = _words()
    together = control(**w)
    for run in range(R):
        alone = control(**{name: value[run] for name, value in w.items()})
        np.testing.assert_allclose(alone, together[run], rtol=1e-6)


def _steer(w, gamma=0.07, **changes):
    names = ("rows", "prepositions", "preposition_mask", "negatives", "negative_mask")
    row, *others = ((w | changes)[name] for name in names)
    value_and_grad = jax.value_and_grad(lambda row, *others: steering(row, *others).sum())
    return jax.device_get(value_and_grad(row[:, 0], *others, gamma))


@pytest.mark.parametrize("side", ["negative", "preposition"])
@pytest.mark.parametrize("how", ["masked", "absent"])
def test_without_positives_or_negatives_the_loss_and_its_gradient_are_zero(side, how):
    w = _words()
    if how == "masked":
        changes = {f"{side}_mask": np.zeros_like(w[f"{side}_mask"])}
    else:
        changes = {f"{side}s": w[f"{side}s"][:, :0], f"{side}_mask": w[f"{side}_mask"][:, :0]}
    value, gradient = _steer(w, **changes)
    assert value == 0
    assert np.all(gradient == 0)


def test_absent_positives_or_negatives_give_no_intermediate_nan():
    row, word = np.ones(D, np.float32), np.ones((1, D), np.float32)
    with jax.debug_nans(True), jax.disable_jit():  # a user may set debug_nans to find the cause of a NaN
        for on, off in ([True], [False]), ([False], [True]), ([False], [False]):
            gradient = jax.grad(losses.steering)(row, word, np.array(on), word, np.array(off), 0.07)
            assert np.all(gradient == 0)


def test_masked_words_have_no_effect_even_if_their_vectors_are_zero_or_huge():
    w = _words()
    spoiled = {name: w[name].copy() for name in ("prepositions", "negatives")}
    spoiled["prepositions"][~w["preposition_mask"]] = 0
    spoiled["negatives"][~w["negative_mask"]] = 1e30
    for plain, other in zip(_steer(w), _steer(w, **spoiled), strict=True):
        np.testing.assert_allclose(other, plain, rtol=1e-6)


@pytest.mark.parametrize("gamma", [1e-3, 0.07, 10.0])
def test_the_steering_loss_is_finite_at_extreme_temperatures(gamma):
    w = _words()
    w["rows"][0, 0] = -100 * w["prepositions"][0, 0]  # the cosine is −1, so at γ = 0.001 the exponential is exp(−1000)
    w["preposition_mask"][0, 1:] = False
    value, gradient = _steer(w, gamma)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert value > 0


def test_gradient_descent_moves_the_row_to_its_positives():
    w = _words()
    row, word = w["rows"][0, 0], w["prepositions"][0, :1]
    others, on, off = w["negatives"][0], np.ones(1, bool), np.ones(M, bool)
    loss = jax.jit(jax.value_and_grad(lambda row: losses.steering(row, word, on, others, off, 0.07)))
    start, _ = loss(row)
    for _ in range(200):
        row = row - 0.5 * loss(row)[1]
    cosines = np.stack([*word, *others]) @ row / np.linalg.norm([*word, *others], axis=-1)
    assert loss(row)[0] < 0.1 < start
    assert np.argmax(cosines) == 0
