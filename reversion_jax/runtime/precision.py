"""Defines the names of precisions: the type in which frozen networks compute, and the precision of float32 products.

    float32         float32 everywhere, also in products and convolutions, on every device
    tensorfloat32   float32, but products use 10-bit fractions if the device has them (a GPU's tensor cores)
    bfloat16        text encoder and UNet take half the memory; softmax, norms, losses and rows stay float32
    float16         as bfloat16, for GPUs without it; the loss is scaled so that small gradients do not become 0
    auto            bfloat16 on TPUs and on GPUs that have it, float16 on other GPUs, float32 on CPUs

The VAE is always float32. The VAE's products are exact in float32 with "float32"; with every other name, they are the
same as with "tensorfloat32".
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AUTO = "auto"


def choose(name: str) -> str:
    """Returns the name of the precision to use: `name` itself or, for "auto", the precision that suits the device."""
    return of_device(jax.devices()[0]) if name == AUTO else name


def of_device(device: Any) -> str:
    """Returns the name of the precision that suits a JAX device."""
    if device.platform == "cpu":
        return "float32"
    # On CUDA devices, the compute capability is a number such as 7.5. On AMD's devices, which have bfloat16, the
    # compute capability is a name.
    capability = getattr(device, "compute_capability", "")
    is_old = isinstance(capability, str) and capability.replace(".", "").isdigit() and float(capability) < 8
    return "float16" if is_old else "bfloat16"


def dtype(name: str) -> np.dtype:
    """Returns the type of the text encoder's and the UNet's weights. name: a precision, but not "auto"."""
    return jnp.dtype("float32" if name == "tensorfloat32" else name)


def products(name: str) -> str:
    """Returns the value of `jax.default_matmul_precision` for float32 products and convolutions."""
    return "float32" if name == "float32" else "tensorfloat32"
