"""Trainable rows of the token-embedding space: their initial values, their use in prompts, and what they resemble."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def splice(embeddings: jax.Array, ids: jax.Array, rows: jax.Array, vocab_size: int) -> jax.Array:
    """Replaces the embeddings of placeholders by the rows of their run. Only the rows receive a gradient.

    embeddings [R, N, L, D]: rows of the frozen table for ids [R, N, L]; the values at placeholders do not matter.
    rows [R, P, D]: an id of vocab_size + p means row p of its run. Returns [R, N, L, D] in the embeddings' dtype.
    An id of vocab_size + P or more has no row, and gives NaN.
    """
    spliced = jax.lax.stop_gradient(embeddings)
    offset = (ids - vocab_size)[..., None]
    # Each row is inserted by a select and not by a gather. The gradient of a gather is a scatter, which adds in no
    # fixed order on a GPU. The gradient of the selects is a sum, which is deterministic.
    for p in range(rows.shape[1]):
        spliced = jnp.where(offset == p, rows[:, None, None, p].astype(spliced.dtype), spliced)
    return jnp.where(offset >= rows.shape[1], jnp.nan, spliced)


def init(table: jax.Array, initialisers: Sequence[Sequence[int]], rows_per_token: int = 1) -> jax.Array:
    """Returns the initial rows, float32 [P, D], which are copies of words' rows in the frozen table [V, D].

    initialisers: the token ids of one word for each placeholder. Each placeholder has S = rows_per_token rows, so
    P = placeholders × S. A word of S tokens initialises the S rows with one token each; a word of one token initialises
    all S rows with that token. Raises ValueError for any other number of tokens, and for ids outside the table.
    """
    ids = []
    for word in initialisers:
        if len(word) not in (1, rows_per_token):
            wanted = "one token" if rows_per_token == 1 else f"one token or {rows_per_token}"
            raise ValueError(f"initialiser word of {len(word)} tokens: rows_per_token={rows_per_token} needs {wanted}")
        if not all(0 <= token < table.shape[0] for token in word):
            raise ValueError(f"initialiser token ids {list(word)} must all be in the table, 0 … {table.shape[0] - 1}")
        ids += list(word) * (rows_per_token // len(word))
    return jnp.asarray(table)[jnp.asarray(ids)].astype(jnp.float32)


def nearest(rows: jax.Array, table: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the k tokens of table [V, D] with the largest cosines to rows [..., D]: ids and cosines, [..., k] each.

    The token with the largest cosine comes first.
    """
    cosines = jnp.einsum("...d,vd->...v", unit(rows), unit(table), precision=jax.lax.Precision.HIGHEST)
    cosines, ids = jax.lax.top_k(cosines, k)
    return ids, cosines


def median_norm(table: jax.Array) -> jax.Array:
    """Returns the median norm [] of the token embeddings in table [V, D]."""
    return jnp.median(jnp.linalg.norm(table.astype(jnp.float32), axis=-1))


class Diagnosis(NamedTuple):
    """Properties of learned rows [P, D] that are computed without drawing a picture. `diagnose` explains them."""

    norms: jax.Array  # [P] norm of each row
    median_norm: jax.Array  # [] median norm of the tokens in the table
    to_start: jax.Array  # [P] cosine of each row with its initial value
    between: jax.Array  # [P, P] cosines between the rows, such as <R> and <R-inv>
    nearest_ids: jax.Array  # [P, k] ids of the tokens with the largest cosines, largest first
    nearest: jax.Array  # [P, k] cosines of the tokens in `nearest_ids`


def diagnose(rows: jax.Array, first: jax.Array, table: jax.Array, k: int = 5) -> Diagnosis:
    """Compares learned rows [P, D] with their initial values `first` [P, D] and the token table [V, D].

    Signs of trouble:
    - A cosine of 1 with the initial value means that nothing was learned.
    - A norm many times the median means that the row dominates the prompt's other words, or that the learning rate was
      too high.
    - A cosine of 1 between <R> and <R-inv> means that the two words have learned the same.

    The absence of these signs does not show that a row draws the relation; only pictures can show that. Rows of textual
    inversion can work and yet be far from every word, and the nearest words of a row that works need not make sense.
    """
    ids, cosines = nearest(rows, table, k)
    ours = unit(rows)
    between = jnp.einsum("pd,qd->pq", ours, ours, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.linalg.norm(rows.astype(jnp.float32), axis=-1)
    return Diagnosis(norms, median_norm(table), jnp.sum(ours * unit(first), axis=-1), between, ids, cosines)


def unit(vectors: np.ndarray | jax.Array) -> jax.Array:
    """Scales vectors [..., D] to length 1, in float32. A zero vector stays zero."""
    floats = jnp.asarray(vectors, jnp.float32)
    norms = jnp.linalg.norm(floats, axis=-1, keepdims=True)
    return floats / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)
