"""What a step draws: exemplars, prompts, noise, timesteps and words, each sample from its own key."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import timesteps
from reversion_jax.inversion.arrays import SHARED, Data

_COPIES = 100  # of each exemplar in the data set that ReVersion's loader shuffles
_EPOCHS = 2**31  # folded into a run's key for its epochs: no step is that large


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What shapes the compiled step, the same for all runs."""

    batch_size: int  # G, samples of a group, which share their words in the control loss
    accumulation: int  # groups of a step: its N = batch_size * accumulation samples
    positives_per_sample: int
    rows_per_token: int  # S; the first S of a run's P rows are <R>'s
    vocabulary_negatives: int = 0  # a sample; 0: negatives are the prompts' own words
    adds_inverse: bool = False  # inverse prompts are added to the direct ones; otherwise they replace some
    in_epochs: bool = False  # exemplars are drawn by `exemplars_in_epochs`; otherwise independently
    blur_noisy_latents: bool = False
    remat: bool = False
    samples_at_once: int = 0  # of all runs', through the networks together; 0: all
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8


class Hyperparameters(NamedTuple):
    """What differs between runs: arrays [R], float32 but for the integer seeds."""

    seed: jax.Array
    learning_rate: jax.Array
    weight_decay: jax.Array
    denoise_weight: jax.Array
    control_weight: jax.Array
    verb_weight: jax.Array
    temperature: jax.Array
    inverse_share: jax.Array
    importance: jax.Array
    latent_sigma: jax.Array  # of the suppressor on noisy latents, in latent pixels


class Sample(NamedTuple):
    """One draw for one sample of one run."""

    latents: jax.Array  # [H, W, C]
    noise: jax.Array  # [H, W, C]
    timestep: jax.Array
    ids: jax.Array  # [L]
    prepositions: jax.Array  # [words * k] token ids, -1 = none
    verbs: jax.Array
    negatives: jax.Array  # [M] token ids, -1 = none
    inverse_ids: jax.Array | None = None  # [L] the second prompt, where inverse prompts are added


def exemplars_in_epochs(
    seed: jax.Array, step: jax.Array, samples: int, num_exemplars: jax.Array, most: int
) -> jax.Array:
    """The exemplars [samples] of a run's step, drawn as ReVersion's loader draws them.

    Its data set has 100 copies of each exemplar; every epoch is a permutation of it, and a step's samples are the next
    ones. seed, step and num_exemplars are scalars; most is the largest num_exemplars of any run.
    """
    size = _COPIES * num_exemplars
    places = jnp.arange(_COPIES * most)

    def order(epoch: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _EPOCHS), epoch)
        # Each place has its own key: a permutation does not depend on `most`, and so not on the other runs.
        values = jax.vmap(lambda place: jax.random.bits(jax.random.fold_in(key, place)))(places)
        return jnp.argsort(jnp.where(places < size, values, jnp.uint32(2**32 - 1)))

    number = step * samples + jnp.arange(samples)
    first = number[0] // size
    orders = jax.vmap(order)(first + jnp.arange(samples // _COPIES + 2))  # of all epochs that the step can touch
    return orders[number // size - first, number % size] % num_exemplars


def draw_sample(
    key: jax.Array,
    data: Data,
    hyper: Hyperparameters,
    schedule: Schedule,
    config: StepConfig,
    exemplar: jax.Array | None = None,
) -> Sample:
    """One sample from one run's data and hyperparameters (no R axis): a function of `key`, and of a given exemplar."""
    keys = jax.random.split(key, 9)
    if exemplar is None:
        exemplar = jax.random.randint(keys[0], (), 0, data.num_exemplars)
    template = jax.random.randint(keys[1], (), 0, data.num_templates[exemplar])
    if config.adds_inverse:
        inverse = jnp.int32(0)
        # A run without inverse prompts repeats the direct one: the mean loss of the two is that of one.
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
    """A step's samples [R, N, ...]; each depends on (the run's seed, step, its index in the step) alone."""
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
