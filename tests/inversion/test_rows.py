import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reversion_jax.inversion import rows

V, D = 11, 6  # size of the vocabulary, width of an embedding


def _arrays(runs=2, batch=3, length=5, placeholders=3):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V + placeholders, (runs, batch, length))
    ids[0, 0, :4] = [V - 1, V, V + 1, V + 2]  # the last word of the vocabulary, then placeholders
    embeddings = rng.normal(size=(runs, batch, length, D)).astype(np.float32)
    embeddings[ids >= V] = np.nan  # JAX gives NaN for ids beyond the table
    learned = rng.normal(size=(runs, placeholders, D)).astype(np.float32)
    return embeddings, ids, learned


def test_splice_replaces_placeholders_by_the_rows_of_their_run():
    embeddings, ids, learned = _arrays()
    expected = embeddings.copy()
    for r, n, position in np.argwhere(ids >= V):
        expected[r, n, position] = learned[r, ids[r, n, position] - V]
    np.testing.assert_array_equal(jax.jit(rows.splice, static_argnums=3)(embeddings, ids, learned, V), expected)


def test_only_rows_get_a_gradient_through_splice():
    embeddings, ids, learned = _arrays()
    weights = np.random.default_rng(1).normal(size=embeddings.shape).astype(np.float32)

    def loss(embeddings, learned):
        return jnp.sum(rows.splice(embeddings, ids, learned, V) * weights)

    to_embeddings, to_rows = jax.grad(loss, argnums=(0, 1))(embeddings, learned)
    assert not np.any(to_embeddings)
    expected = np.zeros_like(learned)
    for r, n, position in np.argwhere(ids >= V):
        expected[r, ids[r, n, position] - V] += weights[r, n, position]
    assert np.all(np.any(expected != 0, axis=-1))
    np.testing.assert_allclose(to_rows, expected, rtol=1e-5, atol=1e-6)


def test_splice_keeps_the_dtype_and_gives_nan_for_ids_without_a_row():
    embeddings, ids, learned = _arrays()
    assert rows.splice(embeddings.astype(jnp.bfloat16), ids, learned, V).dtype == jnp.bfloat16
    ids[1, 2, 3] = V + learned.shape[1]
    lost = np.isnan(rows.splice(embeddings, ids, learned, V)).all(axis=-1)
    np.testing.assert_array_equal(np.argwhere(lost), [[1, 2, 3]])


def test_initial_rows_are_the_embeddings_of_words():
    table = np.random.default_rng(0).normal(size=(V, D)).astype(np.float16)
    one_each = rows.init(table, [[4], [7]])
    np.testing.assert_array_equal(one_each, table[[4, 7]].astype(np.float32))
    assert one_each.dtype == jnp.float32
    np.testing.assert_array_equal(rows.init(table, [[4, 9], [7]], rows_per_token=2), table[[4, 9, 7, 7]])


@pytest.mark.parametrize(
    ("initialisers", "rows_per_token", "message"),
    [
        ([[4, 5]], 1, "2 tokens: rows_per_token=1 needs one token"),
        ([[4], [4, 5]], 3, "2 tokens: rows_per_token=3 needs one token or 3"),
        ([[]], 1, "0 tokens"),
        ([[V]], 1, "0 … 10"),
        ([[-1]], 1, "0 … 10"),
    ],
)
def test_ambiguous_initial_words_are_refused(initialisers, rows_per_token, message):
    with pytest.raises(ValueError, match=message):
        rows.init(jnp.zeros((V, D)), initialisers, rows_per_token)


def test_nearest_words_are_ordered_by_cosine_for_any_norms():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(V, D)) * rng.uniform(0.01, 100, (V, 1))
    table[3] = 0
    learned = rng.normal(size=(2, 3, D))
    ids, cosines = rows.nearest(jnp.asarray(learned, jnp.float32), jnp.asarray(table, jnp.float32), k=V)
    norms = np.linalg.norm(learned, axis=-1)[..., None] * np.linalg.norm(table, axis=-1)
    expected = np.divide(learned @ table.T, norms, out=np.zeros(norms.shape), where=norms > 0)
    order = np.argsort(-expected, axis=-1)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(cosines, np.take_along_axis(expected, order, -1), atol=1e-6)
