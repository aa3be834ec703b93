"""What there is to compute on, and whether JAX sees it."""

import os
from pathlib import Path

import jax

from reversion_jax.runtime.errors import warn

# Files that drivers of these make on Linux, what they drive, and the extra that brings a jax for it.
_DRIVERS = {
    "/proc/driver/nvidia/version": ("an NVIDIA GPU", "cuda"),
    "/dev/accel0": ("a TPU", "tpu"),
    "/dev/vfio/0": ("a TPU", "tpu"),
}


def warn_of_unseen() -> None:
    """Warns where the machine has a GPU or TPU and JAX computes on the CPU, unless the user asked for the CPU."""
    if jax.default_backend() != "cpu" or "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return
    for file, (kind, extra) in _DRIVERS.items():
        if Path(file).exists():
            warn(
                f"this machine has {kind}, which JAX does not see, so that all runs on the CPU: "
                f"pip install 'reversion_jax[{extra}]' (from a checkout -e '.[{extra}]')"
            )
            return
