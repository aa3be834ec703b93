import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from reversion_jax.inversion import timesteps

T = 1000


def _expected(num_timesteps, alpha):
    """Returns f(t) ∝ (1/T)(1 − α cos(π t / T)) of ReVersion in float64, normalised by its sum."""
    f = np.array([(1 - alpha * np.cos(np.pi * t / num_timesteps)) / num_timesteps for t in range(num_timesteps)])
    return f / f.sum()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -1.0])
@pytest.mark.parametrize("num_timesteps", [2, 10, T])
def test_probabilities_of_timesteps_equal_the_closed_form(num_timesteps, alpha):
    got = timesteps.probabilities(num_timesteps, alpha)
    np.testing.assert_allclose(got, _expected(num_timesteps, alpha), rtol=1e-5, atol=1e-9)


def test_larger_timesteps_have_larger_probabilities():
    assert np.all(np.diff(timesteps.probabilities(T, 0.5)) > 0)
    per_run = timesteps.probabilities(T, jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(per_run, [_expected(T, 0.0), _expected(T, 0.5)], rtol=1e-5)


def _chi_square_p(samples, num_timesteps, alpha, bins):
    counts = np.bincount(samples.ravel(), minlength=num_timesteps)
    assert len(counts) == num_timesteps
    expected = _expected(num_timesteps, alpha) * samples.size
    fold = lambda x: x.reshape(bins, -1).sum(axis=1)
    return stats.chisquare(fold(counts), fold(expected)).pvalue


@pytest.mark.parametrize(("num_timesteps", "bins"), [(T, 50), (10, 10)])
def test_drawn_timesteps_follow_the_probabilities_of_their_run(num_timesteps, bins):
    alphas = np.float32([0.0, 0.5, 0.9])
    shape = (len(alphas), 200, 250)
    draw = jax.jit(timesteps.sample, static_argnums=(1, 2))
    samples = np.asarray(draw(jax.random.key(0), shape, num_timesteps, alphas))
    assert samples.shape == shape
    assert samples.dtype == np.int32
    for own, alpha in zip(samples, alphas, strict=True):
        assert _chi_square_p(own, num_timesteps, float(alpha), bins) > 1e-3
        # The test is sharp enough to reject an alpha that differs by 0.2.
        assert _chi_square_p(own, num_timesteps, float(alpha) - 0.2, bins) < 1e-6


def test_a_timestep_depends_only_on_the_key_and_alpha_of_its_sample():
    keys = jax.random.split(jax.random.key(1), 6)
    alphas = jnp.linspace(0, 1, 6)
    one = lambda key, alpha: timesteps.sample(key, (), T, alpha)
    together = jax.vmap(one)(keys, alphas)
    np.testing.assert_array_equal(together, [one(key, alpha) for key, alpha in zip(keys, alphas, strict=True)])
    np.testing.assert_array_equal(together[2:4], jax.vmap(one)(keys[2:4], alphas[2:4]))


def test_every_timestep_of_the_schedule_can_be_drawn_and_no_other(monkeypatch):
    # The uniform numbers are the smallest and the largest number in [0, 1), and the middle of each timestep's interval.
    p = _expected(10, 0.5)
    numbers = np.float32([0, *(np.cumsum(p) - p / 2), 1 - 2**-24])
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.asarray(numbers))
    drawn = timesteps.sample(jax.random.key(0), numbers.shape, 10, 0.5)
    np.testing.assert_array_equal(drawn, [0, *range(10), 9])
