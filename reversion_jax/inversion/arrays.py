"""The data of the training step: exemplars, prompts and words as arrays."""

from typing import NamedTuple

import jax


class Data(NamedTuple):
    """The data that the training steps read, on the device.

    R is the number of runs, E the largest number of exemplars of any run, K the largest number of templates of any
    exemplar, and L the number of tokens in a prompt. Runs with fewer exemplars, and exemplars with fewer templates, are
    padded. W and W' are the numbers of words in the two word lists, k is the largest number of tokens in a word, and V'
    the largest number of ids in `vocabulary` of any run.
    """

    mean: jax.Array  # [R, E, H, W, C] mean of the VAE's posterior for each exemplar
    std: jax.Array  # [R, E, H, W, C] standard deviation of the VAE's posterior for each exemplar
    num_exemplars: jax.Array  # [R] number of exemplars that are not padding
    ids: jax.Array  # [R, E, K, 2, L] token ids of the direct and the inverse prompt of each template
    is_negative: jax.Array  # [R, E, K, 2, L] bool: whether the control loss steers <R> away from a token
    num_templates: jax.Array  # [R, E] number of templates that are not padding
    prepositions: jax.Array  # [W, k] token ids of each word, padded with -1
    verbs: jax.Array  # [W', k] token ids of each word, padded with -1
    vocabulary: jax.Array  # [R, V'] token ids from which negatives can be drawn, padded
    num_vocabulary: jax.Array  # [R] number of ids in `vocabulary` that are not padding


SHARED = ("prepositions", "verbs")  # the fields without a runs axis: all runs share them
