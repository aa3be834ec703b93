import itertools

import numpy as np
import pytest

from reversion_jax.evaluation.intervals import bootstrap


def test_the_interval_over_prompts_alone_is_the_binomial_interval():
    """With one relation and one seed, the number of right prompts in a resample has a binomial distribution."""
    from scipy.stats import binom

    values = np.arange(100).reshape(1, 1, 100) < 30
    mean, low, high = bootstrap(values, resamples=20_000)
    assert mean == 0.3
    np.testing.assert_allclose([low, high], binom.ppf([0.025, 0.975], 100, 0.3) / 100, atol=0.011)


def test_the_interval_equals_that_of_all_resamples_in_a_small_case():
    """Two relations, two seeds and one prompt have so few resamples that the test computes all resamples."""
    values = np.array([[[0.0], [1.0]], [[2.0], [4.0]]])
    pairs = list(itertools.product(range(2), repeat=2))
    means = [
        np.mean([values[a, i], values[a, j], values[b, m], values[b, n]])
        for (a, b), (i, j), (m, n) in itertools.product(pairs, pairs, pairs)
    ]
    for level in (0.5, 0.8, 0.95):
        _, low, high = bootstrap(values, resamples=40_000, level=level)
        np.testing.assert_allclose([low, high], np.quantile(means, [(1 - level) / 2, (1 + level) / 2]), atol=1e-9)


def test_a_resample_has_the_same_prompts_for_all_seeds():
    values = np.array([[[0.0, 1.0, 5.0], [2.0, 4.0, 7.0]]])
    seeds, prompts = list(itertools.product(range(2), repeat=2)), list(itertools.product(range(3), repeat=3))
    means = [np.mean(values[0][np.ix_(s, p)]) for s in seeds for p in prompts]
    _, low, high = bootstrap(values, resamples=40_000, level=0.8)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.1, 0.9]), atol=1e-9)


def test_only_relations_that_differ_widen_the_interval():
    prompts = np.random.default_rng(0).random(200) < 0.5
    apart = np.stack([np.zeros((3, 200)), np.ones((3, 200))])
    one = bootstrap(prompts.reshape(1, 1, 200), resamples=20_000)
    np.testing.assert_allclose(bootstrap(np.broadcast_to(prompts, (2, 3, 200)), resamples=20_000), one, atol=0.006)
    assert bootstrap(apart) == (0.5, 0.0, 1.0)


def test_a_constant_difference_has_an_interval_of_width_zero():
    """If two methods differ equally on each prompt, the spread of the values over prompts does not matter."""
    prompts = np.random.default_rng(1).normal(size=(2, 3, 50))
    np.testing.assert_allclose(bootstrap((prompts + 0.1) - prompts), 0.1, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (2, 0, 4)])
def test_an_array_of_another_rank_or_without_seeds_is_refused(shape):
    with pytest.raises(ValueError, match=r"need \[relations, seeds, prompts\]"):
        bootstrap(np.zeros(shape))
