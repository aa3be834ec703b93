"""Checks whether JAX uses the GPU or TPU of the machine."""

import os
from pathlib import Path

import jax

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
