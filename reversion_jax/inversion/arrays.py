"""What the training step reads: exemplars, prompts and words as arrays."""

from typing import NamedTuple

import jax


class Data(NamedTuple):
    """Everything the steps read, on the device; R runs of E exemplars of K templates, padded to the largest."""

    mean: jax.Array  # [R, E, H, W, C] posterior of the exemplars
    std: jax.Array  # [R, E, H, W, C]
    num_exemplars: jax.Array  # [R]
    ids: jax.Array  # [R, E, K, 2, L] prompts: direct, inverse
    is_negative: jax.Array  # [R, E, K, 2, L] bool: tokens that the relation is steered away from
    num_templates: jax.Array  # [R, E]
    prepositions: jax.Array  # [W, k] token ids of each word, padded with -1
    verbs: jax.Array  # [W', k]
    vocabulary: jax.Array  # [R, V'] ids that may serve as negatives
    num_vocabulary: jax.Array  # [R]


SHARED = ("prepositions", "verbs")  # fields without a runs axis
