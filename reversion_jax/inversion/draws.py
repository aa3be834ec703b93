"""Random draws of a training step: exemplars, prompts, noise, timesteps and words. Each sample has its own key."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import timesteps
from reversion_jax.inversion.arrays import SHARED, Data

_COPIES = 100  # copies of each exemplar in ReVersion's data set, which its loader shuffles
_EPOCHS = 2**31  # folded into a run's key to draw epochs; larger than any step number, which is folded in for samples


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Settings that are compiled into the training step. All runs share them."""

    batch_size: int  # G, the samples of a group; the control loss pools the words of a group
    accumulation: int  # groups in a step, so a step has N = batch_size * accumulation samples
    positives_per_sample: int  # number of prepositions, and of verbs, that are drawn for each sample
    rows_per_token: int  # S; the first S of a run's P rows belong to <R>, the other rows to <R-inv>
    vocabulary_negatives: int = 0  # number of negatives drawn for a sample; 0: the prompt's other words are negatives
    adds_inverse: bool = False  # True: a sample has a direct and an inverse prompt; False: a sample has one of them
    in_epochs: bool = False  # True: exemplars are drawn by `exemplars_in_epochs`; False: independently
    blur_noisy_latents: bool = False  # True: the suppressor blurs noisy latents by `latent_sigma`
    remat: bool = False  # True: the UNet's backward pass computes activations again, which saves memory
    samples_at_once: int = 0  # maximum number of samples, of all runs, per pass through the networks; 0: no limit
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8


class Hyperparameters(NamedTuple):
    """Settings that can differ between runs: arrays [R], int for seeds, else float32 (see config.py)."""

    seed: jax.Array
    learning_rate: jax.Array
    weight_decay: jax.Array
    denoise_weight: jax.Array
    control_weight: jax.Array
    verb_weight: jax.Array
    temperature: jax.Array
    inverse_share: jax.Array
    importance: jax.Array
    latent_sigma: jax.Array  # sigma of the suppressor on noisy latents, in latent pixels


class Sample(NamedTuple):
    """The random draws for one sample of one run. k is the largest number of tokens in a word."""

    latents: jax.Array  # [H, W, C] latents of the exemplar, drawn from the VAE's posterior
    noise: jax.Array  # [H, W, C] unit Gaussian
    timestep: jax.Array  # [] int32
    ids: jax.Array  # [L] token ids of the prompt
    prepositions: jax.Array  # [positives_per_sample * k] token ids, padded with -1
    verbs: jax.Array  # [positives_per_sample * k] token ids, padded with -1
    negatives: jax.Array  # [M] token ids of M negatives, padded with -1
    inverse_ids: jax.Array | None = None  # [L] token ids of the inverse prompt, if inverse prompts are added


def exemplars_in_epochs(
    seed: jax.Array, step: jax.Array, samples: int, num_exemplars: jax.Array, most: int
) -> jax.Array:
    """Draws the exemplars of one step of one run as ReVersion's loader does, and returns their indices [samples].

    ReVersion's data set has 100 copies of each exemplar. Every epoch is a random permutation of the data set, and each
    step takes the next samples of the permutation.

    seed, step, num_exemplars: scalars of the run. most: the largest num_exemplars of any run.
    """
    size = _COPIES * num_exemplars
    places = jnp.arange(_COPIES * most)

    def order(epoch: jax.Array) -> jax.Array:
        """Returns the permutation of an epoch, [100 * most]; its first `size` entries are places in the data set."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _EPOCHS), epoch)
        # Each place has its own key, so the permutation does not depend on `most`, which the other runs influence.
        values = jax.vmap(lambda place: jax.random.bits(jax.random.fold_in(key, place)))(places)
        return jnp.argsort(jnp.where(places < size, values, jnp.uint32(2**32 - 1)))

    number = step * samples + jnp.arange(samples)  # each sample's number, counted from the beginning of the run
    first = number[0] // size  # the epoch of the step's first sample
    orders = jax.vmap(order)(first + jnp.arange(samples // _COPIES + 2))  # all epochs that the step can reach
    return orders[number // size - first, number % size] % num_exemplars


def draw_sample(
    key: jax.Array,
    data: Data,
    hyper: Hyperparameters,
    schedule: Schedule,
    config: StepConfig,
    exemplar: jax.Array | None = None,
) -> Sample:
    """Draws one sample of one run, whose `data` and `hyper` have no R axis.

    The sample depends only on `key`, and on the index `exemplar` if it is given; otherwise the exemplar is drawn too.
    """
    keys = jax.random.split(key, 9)
    if exemplar is None:
        exemplar = jax.random.randint(keys[0], (), 0, data.num_exemplars)
    template = jax.random.randint(keys[1], (), 0, data.num_templates[exemplar])
    if config.adds_inverse:
        inverse = jnp.int32(0)
        # A run without inverse prompts uses its direct prompt twice, which does not change the mean loss.
        inverse_ids = data.ids[exemplar, template, (hyper.inverse_share > 0).astype(jnp.int32)]
    else:
        inverse = jax.random.bernoulli(keys[2], hyper.inverse_share).astype(jnp.int32)
        inverse_ids = None
    ids = data.ids[exemplar, template, inverse]
    mean, std = data.mean[exemplar], data.std[exemplar]
    latents = mean + std * jax.random.normal(keys[3], mean.shape)
    noise = jax.random.normal(keys[4], mean.shape)
    timestep = timesteps.sample(keys[5], (), schedule.num_train_timesteps, hyper.importance)

    def words(key: jax.Array, table: jax.Array) -> jax.Array:
        chosen = jax.random.choice(key, len(table), (config.positives_per_sample,), replace=False)
        return table[chosen].reshape(-1)

    if config.vocabulary_negatives:
        chosen = jax.random.randint(keys[8], (config.vocabulary_negatives,), 0, data.num_vocabulary)
        negatives = data.vocabulary[chosen]
    else:
        negatives = jnp.where(data.is_negative[exemplar, template, inverse], ids, -1)
    prepositions, verbs = words(keys[6], data.prepositions), words(keys[7], data.verbs)
    return Sample(latents, noise, timestep, ids, prepositions, verbs, negatives, inverse_ids)


def draw_batch(
    step: jax.Array,
    data: Data,
    hyper: Hyperparameters,
    schedule: Schedule,
    config: StepConfig,
) -> Sample:
    """Draws the samples [R, N, ...] of a step.

    Each sample depends only on its run's seed and data, the step, and its index. With `in_epochs`, a sample's exemplar
    also depends on the number of samples in a step.
    """
    index = jnp.arange(config.batch_size * config.accumulation)

    def of_run(data: Data, hyper: Hyperparameters) -> Sample:
        key = jax.random.fold_in(jax.random.key(hyper.seed), step)
        keys = jax.vmap(partial(jax.random.fold_in, key))(index)
        exemplars = None
        if config.in_epochs:
            exemplars = exemplars_in_epochs(hyper.seed, step, len(index), data.num_exemplars, len(data.mean))
        draw = lambda key, exemplar: draw_sample(key, data, hyper, schedule, config, exemplar)
        return jax.vmap(draw)(keys, exemplars)

    axes = Data._make(None if name in SHARED else 0 for name in Data._fields)
    return jax.vmap(of_run, in_axes=(axes, 0))(data, hyper)
