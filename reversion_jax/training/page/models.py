"""Keeps the last model in memory, so that the next picture does not wait for it to load."""

import dataclasses
import functools
from collections.abc import Mapping

from jax.sharding import Mesh

from reversion_jax.weights.load import Model, load_model
from reversion_jax.weights.variant import Variant


@functools.lru_cache(maxsize=1)
def _loaded(model: str, precision: str, mesh: Mesh, variant: Variant) -> Model:
    return load_model(model, None, precision, mesh, variant)


def load(model: str, rows_per_token: Mapping[str, int], precision: str, mesh: Mesh, variant: Variant) -> Model:
    """Does what `load_model` does, but does not read the weights again if the last call was for the same weights."""
    kept = _loaded(model, precision, mesh, variant)
    tokenizer = dataclasses.replace(kept.tokenizer, rows_per_token=dict(rows_per_token))
    return kept._replace(tokenizer=tokenizer)


forget = _loaded.cache_clear  # frees the model's memory, so that training can use it
