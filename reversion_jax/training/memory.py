"""Decides how many samples go through the networks in one pass: as many as fit into the device's memory.

The memory is estimated from the arrays' shapes, without compiling anything.
"""

import math
import os

import jax

from reversion_jax.config import Settings, prompts_per_sample
from reversion_jax.models.presets import SD15, ModelConfig
from reversion_jax.runtime import parallel, precision
from reversion_jax.weights.folder import parameter_shapes

# Memory in GiB that a training step of Stable Diffusion 1.5 at 512 px needs in addition to the weights. `_ALWAYS` is
# needed for any number of samples, and `_A_SAMPLE` for each sample, without and with remat (recomputed activations).
# All numbers are for bfloat16 and float16. On an H100, two samples needed 2.5 GiB, and eight samples 6.3 GiB.
# Google's compiler for TPU v5e needs 2.56 GiB for one sample, and 3.46 GiB for two samples, with 1.91 GiB of weights.
# We guess that a sample needs twice as much memory in float32, and a third as much memory with remat.
_ALWAYS = {"gpu": 1.3, "tpu": 0.0}
_A_SAMPLE = {"gpu": (0.65, 0.20), "tpu": (0.90, 0.30)}
_PIXELS = 512 * 512
_LEFT = 0.85  # share of the memory for training; previews and errors of the estimate may use the remaining share


def samples_at_once(config: Settings, sizes: ModelConfig, runs: int) -> int:
    """Returns the number of samples per pass through the networks, counted over all runs.

    If the samples of a step need several passes, the passes have nearly equal sizes, which all devices can share evenly
    if the maximum allows. A sample with two prompts counts as two. `config.samples_at_once`, if set, is the maximum;
    otherwise the devices' memory sets the maximum. All processes use the number that the first process computes. A
    resumed run passes the returned number as the maximum, and gets the same number again.
    """
    samples = runs * config.batch_size * config.accumulation * prompts_per_sample(config)
    devices = config.devices or jax.device_count()
    most = config.samples_at_once
    if not most:
        device = jax.devices()[0]
        most = parallel.agreed(devices * most_on_a_device(config, sizes, device_memory(device), device.platform))
    if samples <= most:
        return samples
    devices = devices // config.weight_shards * config.weight_shards or devices  # the devices that a mesh can have
    most = most // devices * devices or most
    a_pass = math.ceil(samples / math.ceil(samples / most))
    filled = math.ceil(a_pass / devices) * devices  # the same number of samples for each device
    return filled if filled <= most else a_pass


def most_on_a_device(config: Settings, sizes: ModelConfig, memory: float, platform: str = "gpu") -> int:
    """Returns the number of samples, at least 1, that fit into one pass on a device with `memory` GiB."""
    without, with_one = (needed(config, sizes, samples, platform) for samples in (0, 1))
    return max(1, int((_LEFT * memory - without) / (with_one - without)))


def needed(config: Settings, sizes: ModelConfig, samples: int, platform: str = "gpu") -> float:
    """Returns the estimated memory, in GiB, of a step with `samples` samples per pass, including the weights."""
    width = precision.dtype(config.precision).itemsize
    kind = "tpu" if platform == "tpu" else "gpu"
    # The activations' memory is proportional to the number of pixels and to the networks' width.
    scale = math.prod(config.size) / _PIXELS * sizes.unet.block_out_channels[0] / SD15.unet.block_out_channels[0]
    a_sample = _A_SAMPLE[kind][config.remat] * width / 2
    return weights(config, sizes) + scale * (_ALWAYS[kind] + samples * a_sample)


def weights(config: Settings, sizes: ModelConfig) -> float:
    """Returns the memory of the frozen weights on each device, in GiB."""
    width = precision.dtype(config.precision).itemsize
    of_part = {part: count * (4 if part == "vae" else width) for part, count in _numbers(sizes).items()}
    return sum(of_part.values()) / config.weight_shards / 2**30


def numbers(sizes: ModelConfig) -> int:
    """Returns the number of the model's weights."""
    return sum(_numbers(sizes).values())


def _numbers(sizes: ModelConfig) -> dict[str, int]:
    """Returns the number of each network's weights."""
    return {part: sum(map(math.prod, shapes.values())) for part, shapes in parameter_shapes(sizes).items()}


def device_memory(device: jax.Device) -> float:
    """Returns the memory that JAX may use on a device, in GiB. For a CPU, returns half of the machine's memory."""
    told = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    if "bytes_limit" in told:
        return told["bytes_limit"] / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / 2**30
