"""Tests the interpolation between the noise of two seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.spatial import geometric_slerp

from reversion_jax.diffusion.noise import Between, draw_noise, ends, slerp

SHAPE = (5, 3, 4, 2)
FIRST, LAST = tiny.noise(0, SHAPE), tiny.noise(1, SHAPE)


def test_interpolated_noise_equals_that_of_scipy():
    weights = np.array([0, 0.2, 0.5, 0.9, 1], np.float32)
    found = np.asarray(slerp(jnp.asarray(FIRST), jnp.asarray(LAST), jnp.asarray(weights)))
    for image, (first, last, weight) in enumerate(zip(FIRST, LAST, weights, strict=True)):
        lengths = [np.linalg.norm(end.astype(float)) for end in (first, last)]
        directions = [end.ravel().astype(float) / length for end, length in zip((first, last), lengths, strict=True)]
        # scipy interpolates only unit vectors. Here scipy interpolates in the plane of the two directions, and the
        # result gives the weights of the first and the last noise.
        angle = np.arccos(directions[0] @ directions[1])
        shares = geometric_slerp([1, 0], [np.cos(angle), np.sin(angle)], float(weight))
        of_last = shares[1] / np.sin(angle)
        of_first = shares[0] - of_last * np.cos(angle)
        np.testing.assert_allclose(found[image], of_first * first + of_last * last, atol=1e-5)


def test_slerp_returns_its_two_inputs_exactly_at_weights_0_and_1():
    at = lambda weight: np.asarray(slerp(jnp.asarray(FIRST), jnp.asarray(LAST), jnp.full(5, weight, jnp.float32)))
    np.testing.assert_array_equal(at(0), FIRST)
    np.testing.assert_array_equal(at(1), LAST)


@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_of_parallel_noises_is_finite(sign):
    found = slerp(jnp.asarray(FIRST), jnp.asarray(sign * FIRST), jnp.full(5, 0.25, jnp.float32))
    np.testing.assert_allclose(found, (0.75 + sign * 0.25) * FIRST, atol=1e-5)


def test_interpolated_noise_has_unit_variance():
    """Linear interpolation would halve the variance in the middle between the two noises."""
    normal = lambda seed: jax.random.normal(jax.random.key(seed), (64, 64, 4))
    seeds = Between(jnp.array([3, 3], jnp.uint32), jnp.array([8, 8], jnp.uint32), jnp.array([0, 0.5], jnp.float32))
    first, middle = draw_noise(normal, seeds)
    np.testing.assert_array_equal(first, normal(3))
    assert np.std(middle) == pytest.approx(1, abs=0.02)  # the standard error of 16,384 numbers is 0.006
    assert np.mean(middle * normal(8)) == pytest.approx(np.sqrt(0.5), abs=0.03)


def test_a_seed_or_a_pair_of_seeds_becomes_two_seeds_and_a_weight():
    found = ends([3, Between(3, 8, 0.25)], np.uint32)
    np.testing.assert_array_equal(found.first, np.array([3, 3], np.uint32))
    np.testing.assert_array_equal(found.last, np.array([3, 8], np.uint32))
    np.testing.assert_array_equal(found.weight, np.array([0, 0.25], np.float32))
