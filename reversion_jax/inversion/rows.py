"""Trainable rows of the token-embedding space: how they start, enter a prompt, and what they resemble."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def splice(embeddings: jax.Array, ids: jax.Array, rows: jax.Array, vocab_size: int) -> jax.Array:
    """Puts each run's rows where its prompts have placeholders; only the rows receive a gradient.

    embeddings [R, N, L, D] looked up in the frozen table (anything at placeholders), ids [R, N, L],
    rows [R, P, D]. Returns [R, N, L, D] in the embeddings' dtype. An id >= vocab_size + P has no row: NaN.
    """
    spliced = jax.lax.stop_gradient(embeddings)
    offset = (ids - vocab_size)[..., None]
    # One select a row, no gather: the gradient is a sum, not a scatter whose order a GPU is free to choose.
    for p in range(rows.shape[1]):
        spliced = jnp.where(offset == p, rows[:, None, None, p].astype(spliced.dtype), spliced)
    return jnp.where(offset >= rows.shape[1], jnp.nan, spliced)


def init(table: jax.Array, initialisers: Sequence[Sequence[int]], rows_per_token: int = 1) -> jax.Array:
    """Rows [P, D] in fp32 that start from words of the frozen table [V, D].

    initialisers holds the token ids of each placeholder's word; P = placeholders × rows_per_token (S). A word
    of S tokens gives one to each of its placeholder's rows, a word of one token gives it to all. ValueError
    for any other number of tokens and for ids outside the table.
    """
    ids = []
    for word in initialisers:
        if len(word) not in (1, rows_per_token):
            wanted = "one token" if rows_per_token == 1 else f"one token or {rows_per_token}"
            raise ValueError(f"initialiser word of {len(word)} tokens: rows_per_token={rows_per_token} takes {wanted}")
        if not all(0 <= token < table.shape[0] for token in word):
            raise ValueError(f"initialiser token ids {list(word)} are not all in the table's 0 … {table.shape[0] - 1}")
        ids += list(word) * (rows_per_token // len(word))
    return jnp.asarray(table)[jnp.asarray(ids)].astype(jnp.float32)


def nearest(rows: jax.Array, table: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k tokens of table [V, D] most like rows [..., D]: ids and cosines, both [..., k], best first."""
    cosines = jnp.einsum("...d,vd->...v", unit(rows), unit(table), precision=jax.lax.Precision.HIGHEST)
    cosines, ids = jax.lax.top_k(cosines, k)
    return ids, cosines


def median_norm(table: jax.Array) -> jax.Array:
    """How long the tokens of table [V, D] usually are, []."""
    return jnp.median(jnp.linalg.norm(table.astype(jnp.float32), axis=-1))


class Diagnosis(NamedTuple):
    """What rows [P, D] are like beside the table, without a picture drawn; see `diagnose`."""

    norms: jax.Array  # [P]
    median_norm: jax.Array  # [] of the table's tokens
    to_start: jax.Array  # [P] cosine of each row with the one that it started from
    between: jax.Array  # [P, P] cosines of the rows with one another: <R> against <R-inv>
    nearest_ids: jax.Array  # [P, k] tokens, best first
    nearest: jax.Array  # [P, k] their cosines


def diagnose(rows: jax.Array, first: jax.Array, table: jax.Array, k: int = 5) -> Diagnosis:
    """Looks at rows [P, D] beside their start [P, D] and the token table [V, D].

    A cosine of 1 to the start: nothing was learned. A norm many times the median: the row drowns the prompt's other
    words, or the rate was too high. A cosine of 1 between <R> and <R-inv>: the inverse says nothing of its own.
    None of it can say that a row draws the relation: textual inversion finds rows far from every word that work, and
    the nearest words of one that works need not make sense.
    """
    ids, cosines = nearest(rows, table, k)
    ours = unit(rows)
    between = jnp.einsum("pd,qd->pq", ours, ours, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.linalg.norm(rows.astype(jnp.float32), axis=-1)
    return Diagnosis(norms, median_norm(table), jnp.sum(ours * unit(first), axis=-1), between, ids, cosines)


def unit(vectors: np.ndarray | jax.Array) -> jax.Array:
    """Vectors [..., D] in float32, scaled to length 1; 0 stays 0."""
    floats = jnp.asarray(vectors, jnp.float32)
    norms = jnp.linalg.norm(floats, axis=-1, keepdims=True)
    return floats / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)
