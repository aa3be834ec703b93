"""Means with 95% intervals by a hierarchical bootstrap: relations, seeds within them, and the prompts of all."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean and the bounds of its interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of values [relations, seeds, prompts] and its percentile interval (Efron & Tibshirani, 1993, §13).

    Each resample draws relations, then seeds of each, and prompts once for all, with replacement: a prompt, and the
    noise that it starts from, is the same for every relation and seed, and some are harder than others. For two
    methods give their differences: what they share, relation, seed and prompt, is thereby paired. One relation or one
    seed is taken as it is: the interval then says nothing about others; of two or three it is too narrow. ValueError
    unless there is a value.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 3 or not values.size:
        raise ValueError(f"values of shape {list(values.shape)}: want [relations, seeds, prompts], none of them 0")
    rng = np.random.default_rng(seed)
    relations, seeds, prompts = values.shape
    # A resample's mean over prompts is a product with how often it has each of them.
    counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    over_prompts = values.reshape(-1, prompts) @ counts.T / prompts  # [relations * seeds, resamples]
    of_relation = rng.integers(relations, size=(resamples, relations, 1))
    of_seed = rng.integers(seeds, size=(resamples, relations, seeds))
    chosen = (of_relation * seeds + of_seed).reshape(resamples, -1)
    means = over_prompts[chosen, np.arange(resamples)[:, None]].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))
