"""Tests what the name of each precision means."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reversion_jax.runtime import precision


def device(platform: str, capability: str | None = None) -> types.SimpleNamespace:
    return types.SimpleNamespace(platform=platform, **({"compute_capability": capability} if capability else {}))


@pytest.mark.parametrize(
    ("device", "suits"),
    [
        (device("cpu"), "float32"),
        (device("tpu"), "bfloat16"),
        (device("gpu", "7.5"), "float16"),  # Colab's T4 GPU
        (device("gpu", "8.0"), "bfloat16"),
        (device("gpu", "12.0"), "bfloat16"),
        (device("gpu", "gfx90a"), "bfloat16"),
    ],
)
def test_each_device_has_a_suitable_precision(device, suits):
    assert precision.of_device(device) == suits


def test_a_precision_that_the_user_names_is_kept():
    assert precision.choose("bfloat16") == "bfloat16"
    assert precision.choose("auto") == precision.of_device(jax.devices()[0])


@pytest.mark.parametrize(("name", "wanted"), [("float32", "HIGHEST"), ("tensorfloat32", "HIGH")])
def test_a_precision_sets_the_precision_of_matrix_products(name, wanted):
    """On GPUs and TPUs only "HIGHEST" computes in full float32."""
    with jax.default_matmul_precision(precision.products(name)):
        text = jax.jit(jnp.dot).lower(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)).as_text()
    assert f"precision = [{wanted}, {wanted}]" in text


def test_a_precision_sets_the_type_of_the_weights():
    names = ("float32", "tensorfloat32", "bfloat16", "float16")
    assert [precision.dtype(name).name for name in names] == ["float32", "float32", "bfloat16", "float16"]
