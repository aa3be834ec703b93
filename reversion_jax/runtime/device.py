"""Checks whether JAX uses the GPU or TPU of the machine, and makes JAX use all cores of a CPU."""

import os
from pathlib import Path

import jax

from reversion_jax.config import MINIATURE
from reversion_jax.runtime.errors import warn

# Maps files that exist on Linux if a driver is loaded to the driver's device and to our extra with JAX for it.
_DRIVERS = {
    "/proc/driver/nvidia/version": ("an NVIDIA GPU", "cuda"),
    "/dev/accel0": ("a TPU", "tpu"),
    "/dev/vfio/0": ("a TPU", "tpu"),
}


def warn_of_unseen() -> None:
    """Warns if the machine has a GPU or TPU but JAX computes on the CPU, unless the user asked for the CPU."""
    if jax.default_backend() != "cpu" or "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return
    for file, (kind, extra) in _DRIVERS.items():
        if Path(file).exists():
            warn(
                f"this machine has {kind} that JAX does not see, so everything runs on the CPU: "
                f"pip install 'reversion_jax[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
            )
            return


def use_cores(model: str) -> None:
    """Makes JAX treat each CPU core as a device, if `model` is the miniature. Must be called before JAX computes.

    The operations of a small model are too short to be divided among the cores, but its samples can be. Each device
    holds a copy of the weights, so large models do not do this. At most eight cores are used, and a power of two,
    because a training step has eight samples. If the user has set the number of devices, does nothing.
    """
    is_set = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get("XLA_FLAGS", "")
    if model == MINIATURE and not is_set:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", max(n for n in (1, 2, 4, 8) if n <= cores))
