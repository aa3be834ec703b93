"""How many samples go through the networks at once: as many as the device's memory holds.

The estimate is from shapes, so that nothing is compiled to find out.
"""

import math
import os

import jax

from reversion_jax.config import Settings, prompts_per_sample
from reversion_jax.models.presets import SD15, ModelConfig
from reversion_jax.runtime import parallel, precision
from reversion_jax.weights.folder import parameter_shapes

# GiB of a step of Stable Diffusion 1.5 at 512 px, beside the weights: what it takes in any case, and what each sample
# takes, without and with remat, by the bytes of the networks' numbers. On an H100 in bfloat16 a step of two samples
# took 2.5 GiB, and one of eight 6.3. That float32 takes twice as much, and remat a third, is a guess.
_ALWAYS = 1.3
_A_SAMPLE = {2: (0.65, 0.20), 4: (1.30, 0.40)}
_PIXELS = 512 * 512
_LEFT = 0.85  # of the memory: the rest is for previews, and for what the estimate is wrong by


def samples_at_once(config: Settings, sizes: ModelConfig, runs: int) -> int:
    """How many samples, of all the runs', go through the networks together; pieces of much the same size.

    A sample with two prompts counts twice. `config.samples_at_once`, if set, is the most. Every process gets the first
    one's number.
    """
    samples = runs * config.batch_size * config.accumulation * prompts_per_sample(config)
    most = config.samples_at_once
    if not most:
        devices = config.devices or jax.device_count()
        most = parallel.agreed(devices * most_on_a_device(config, sizes, device_memory(jax.devices()[0])))
    return -(-samples // -(-samples // most))


def most_on_a_device(config: Settings, sizes: ModelConfig, memory: float) -> int:
    """The samples that a step has room for on a device of `memory` GiB; at least 1."""
    width = precision.dtype(config.precision).itemsize
    # Activations grow with the picture and with the networks' width.
    scale = math.prod(config.size) / _PIXELS * sizes.unet.block_out_channels[0] / SD15.unet.block_out_channels[0]
    room = _LEFT * memory - weights(config, sizes) - _ALWAYS * scale
    return max(1, int(room / (_A_SAMPLE[width][config.remat] * scale)))


def weights(config: Settings, sizes: ModelConfig) -> float:
    """GiB of the frozen weights on each device."""
    width = precision.dtype(config.precision).itemsize
    numbers = {part: sum(map(math.prod, shapes.values())) for part, shapes in parameter_shapes(sizes).items()}
    of_part = {part: count * (4 if part == "vae" else width) for part, count in numbers.items()}
    return sum(of_part.values()) / config.weight_shards / 2**30


def device_memory(device: jax.Device) -> float:
    """GiB that JAX may use of a device; of a CPU half of the machine's memory, which is not JAX's alone."""
    told = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    if "bytes_limit" in told:
        return told["bytes_limit"] / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / 2**30
