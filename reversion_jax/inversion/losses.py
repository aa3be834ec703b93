"""The two losses of Inv-ReVersion (Eq. 10): the denoising loss, and the control loss that steers the rows of <R>.

Both losses are computed in float32. The denoising loss has one value per sample. The control loss has one value per run
and group of samples.
"""

import jax
import jax.numpy as jnp

# Replaces log 0. This number is finite, so that the gradient of an empty sum is 0 and not NaN.
_LOG_ZERO = -1e30


def denoising(prediction: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns ‖ε − ε_θ‖² of each sample, the mean over H, W and C (Inv-ReVersion Eq. 1, 2, 8).

    prediction, noise: arrays [..., N, H, W, C]. Returns float32 [..., N].
    """
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
    """Returns −L_x, which pulls a row R towards positives P and away from negatives N (Inv-ReVersion Eq. 3, 5, 6).

    −log( Σ_k exp(cos(R, P_k)/γ) / (Σ_k exp(cos(R, P_k)/γ) + Σ_m exp(cos(R, N_m)/γ)) )

    The shapes are: row [..., D], positives [..., K, D], negatives [..., M, D], temperature γ [...] or a scalar. The
    bool masks [..., K] and [..., M] are False for words to leave out. The leading axes of all arrays must have equal
    rank and broadcast. Returns [...]. The loss is 0 if there are no negatives. The loss is defined as 0 if there are no
    positives. Only the row receives a gradient.
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    toward = _log_sum_exp(_cosines(row, positives), positive_mask, temperature)
    away = _log_sum_exp(_cosines(row, negatives), negative_mask, temperature)
    # −log(p / (p + n)) = log(1 + n/p). The sums p and n could overflow, so only their logarithms are computed.
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
    """Returns λ_verb · steering(verbs) + (1 − λ_verb) · steering(prepositions) (Inv-ReVersion Eq. 4–7).

    rows [..., S, D]: the rows of <R>. verbs, prepositions, negatives: word vectors [..., K, D] with bool masks
    [..., K]. verb_weight λ_verb, temperature γ: [...] or scalars. Returns the mean over the S rows, [...], which is one
    value for each run and group of samples. λ_verb = 0 gives ReVersion's steering loss (Eq. 3).
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
    """Returns the cosines [..., K] of a row [..., D] with words [..., K, D]. The words receive no gradient."""
    # This is a sum of products, because a TPU would compute a matrix product in bfloat16.
    return jnp.sum(_unit(row)[..., None, :] * jax.lax.stop_gradient(_unit(words)), axis=-1)


def _unit(vectors: jax.Array) -> jax.Array:
    """Scales vectors [..., D] to length 1, in float32. The gradient at a zero vector is finite."""
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(jnp.float32).tiny))


def _log_sum_exp(cosines: jax.Array, mask: jax.Array, temperature: jax.Array) -> jax.Array:
    """Returns log Σ_k exp(cosine_k / γ) over the words whose mask is True: cosines, mask [..., K], γ [...] → [...]."""
    leading = jnp.broadcast_shapes(cosines.shape[:-1], mask.shape[:-1], temperature.shape)
    temperature = jnp.broadcast_to(temperature, leading)[..., None]
    scores = jnp.where(mask, cosines / temperature, _LOG_ZERO)
    return jnp.maximum(jax.nn.logsumexp(scores, axis=-1), _LOG_ZERO)
