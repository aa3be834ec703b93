"""Keeps the model that was drawn with last, so that the next picture need not wait for it."""

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
    """`load_model`, which reads the weights only if the last call had other ones."""
    kept = _loaded(model, precision, mesh, variant)
    tokenizer = dataclasses.replace(kept.tokenizer, rows_per_token=dict(rows_per_token))
    return kept._replace(tokenizer=tokenizer)


forget = _loaded.cache_clear  # training needs the memory
