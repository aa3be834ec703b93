"""Precision by name: the numbers that the frozen networks compute in, and how exact products of float32 are.

    float32         everywhere, products and convolutions too, on every device
    tensorfloat32   float32 with products of 10-bit fractions, where the device has them: a GPU's tensor cores
    bfloat16        text encoder and UNet in half the memory; softmax, norms, losses and rows stay float32
    float16         the same for GPUs without bfloat16, the loss scaled so that gradients do not vanish
    auto            bfloat16 on TPUs and GPUs that have it, float16 on other GPUs, float32 on CPUs

The VAE is always float32. Its products are exact with "float32"; with the others they are those of "tensorfloat32".
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AUTO = "auto"


def choose(name: str) -> str:
    """The precision by its name, "auto" being what suits the device."""
    return of_device(jax.devices()[0]) if name == AUTO else name


def of_device(device: Any) -> str:
    """What suits a device of JAX's."""
    if device.platform == "cpu":
        return "float32"
    # Compute capability, such as 7.5, is CUDA's: AMD's is a name, and its cards have bfloat16.
    capability = getattr(device, "compute_capability", "")
    is_old = isinstance(capability, str) and capability.replace(".", "").isdigit() and float(capability) < 8
    return "float16" if is_old else "bfloat16"


def dtype(name: str) -> np.dtype:
    """The type of the weights of text encoder and UNet."""
    return jnp.dtype("float32" if name == "tensorfloat32" else name)


def products(name: str) -> str:
    """What `jax.default_matmul_precision` is to be for products and convolutions of float32."""
    return "float32" if name == "float32" else "tensorfloat32"
