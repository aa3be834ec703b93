"""The two losses of Inv-ReVersion (Eq. 10): denoising, and the control loss that steers the relation's rows.

Both are computed in fp32 and come back unreduced over runs; the first over samples as well.
"""

import jax
import jax.numpy as jnp

# Stands for log 0. Finite, so that the gradient of an empty sum is 0 and not NaN.
_LOG_ZERO = -1e30


def denoising(prediction: jax.Array, noise: jax.Array) -> jax.Array:
    """‖ε − ε_θ‖² a sample, mean over H, W, C: [..., N, H, W, C] → [..., N] (Inv-ReVersion Eq. 1, 2, 8)."""
    error = prediction.astype(jnp.float32) - noise.astype(jnp.float32)
    return jnp.mean(jnp.square(error), axis=(-3, -2, -1))


def steering(
    row: jax.Array,
    positives: jax.Array,
    positive_mask: jax.Array,
    negatives: jax.Array,
    negative_mask: jax.Array,
    temperature: jax.Array | float,
) -> jax.Array:
    """−L_x: pulls a row towards the positives, away from the negatives (Inv-ReVersion Eq. 3, 5, 6).

    row [..., D], positives [..., K, D], negatives [..., M, D] with bool masks [..., K] and [..., M],
    temperature γ [...] or a scalar; leading axes of equal rank broadcast. Returns [...]:
    −log( Σ_k exp(cos(R, P_k)/γ) / (Σ_k exp(cos(R, P_k)/γ) + Σ_m exp(cos(R, N_m)/γ)) ), masked words left out.
    Without negatives it is 0. Without positives there is nothing to steer to, and it is 0 by definition.
    Only the row receives a gradient.
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    toward = _log_sum_exp(_cosines(row, positives), positive_mask, temperature)
    away = _log_sum_exp(_cosines(row, negatives), negative_mask, temperature)
    # −log(p / (p + n)) = log(1 + n/p), without ever forming p or n.
    return jnp.where(jnp.any(positive_mask, axis=-1), jax.nn.softplus(away - toward), 0.0)


def control(
    rows: jax.Array,
    verbs: jax.Array,
    verb_mask: jax.Array,
    prepositions: jax.Array,
    preposition_mask: jax.Array,
    negatives: jax.Array,
    negative_mask: jax.Array,
    verb_weight: jax.Array | float,
    temperature: jax.Array | float,
) -> jax.Array:
    """λ_verb · steering(verbs) + (1 − λ_verb) · steering(prepositions) (Inv-ReVersion Eq. 4–7).

    rows [..., S, D] are those of <R>; words [..., K, D] with bool masks [..., K]; verb_weight λ_verb and
    temperature γ [...] or scalars. Returns [...], one value a run and group of samples: the mean over the S rows.
    λ_verb = 0 is ReVersion's steering loss (Eq. 3).
    """

    def steer(words: jax.Array, mask: jax.Array) -> jax.Array:
        over_rows = jnp.asarray(temperature, jnp.float32)[..., None]
        return steering(
            rows,
            words[..., None, :, :],
            mask[..., None, :],
            negatives[..., None, :, :],
            negative_mask[..., None, :],
            over_rows,
        ).mean(axis=-1)

    verb_weight = jnp.asarray(verb_weight, jnp.float32)
    return verb_weight * steer(verbs, verb_mask) + (1 - verb_weight) * steer(prepositions, preposition_mask)


def _cosines(row: jax.Array, words: jax.Array) -> jax.Array:
    """Cosine of row [..., D] with each of words [..., K, D] → [..., K]."""
    # A sum of products, not a matmul, which a TPU would compute in bf16.
    return jnp.sum(_unit(row)[..., None, :] * jax.lax.stop_gradient(_unit(words)), axis=-1)


def _unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., D] in float32, scaled to length 1, with a gradient that is finite at 0."""
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))


def _log_sum_exp(cosines: jax.Array, mask: jax.Array, temperature: jax.Array) -> jax.Array:
    """log Σ_k exp(cosine_k / γ) over the words that mask [..., K] keeps: cosines [..., K], γ [...] → [...]."""
    leading = jnp.broadcast_shapes(cosines.shape[:-1], mask.shape[:-1], temperature.shape)
    temperature = jnp.broadcast_to(temperature, leading)[..., None]
    scores = jnp.where(mask, cosines / temperature, _LOG_ZERO)
    return jnp.maximum(jax.nn.logsumexp(scores, axis=-1), _LOG_ZERO)
