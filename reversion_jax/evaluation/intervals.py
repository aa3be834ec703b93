"""Means with 95% intervals, by a hierarchical bootstrap over relations, seeds within relations, and prompts."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Returns the mean of values [relations, seeds, prompts] and its percentile interval.

    The method is the percentile bootstrap (Efron & Tibshirani, 1993, §13).
    All draws are with replacement. Each resample draws relations, then seeds for each drawn relation. Each resample
    draws prompts only once, for all relations and seeds. Prompts are drawn once because a prompt, and the noise of its
    picture, is the same for every relation and seed, and some prompts are harder than others. To compare two methods,
    pass the differences of their values, paired by relation, seed and prompt. With only one relation or seed, the
    interval says nothing about other relations or seeds; with two or three, the interval is too narrow. Raises
    ValueError if there are no values.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 3 or not values.size:
        raise ValueError(f"values of shape {list(values.shape)}: need [relations, seeds, prompts], none of them 0")
    rng = np.random.default_rng(seed)
    relations, seeds, prompts = values.shape
    # The mean over a resample's prompts is a product of the values and `counts`: how often each prompt was drawn.
    counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    over_prompts = values.reshape(-1, prompts) @ counts.T / prompts  # [relations * seeds, resamples]
    of_relation = rng.integers(relations, size=(resamples, relations, 1))
    of_seed = rng.integers(seeds, size=(resamples, relations, seeds))
    chosen = (of_relation * seeds + of_seed).reshape(resamples, -1)
    means = over_prompts[chosen, np.arange(resamples)[:, None]].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))
