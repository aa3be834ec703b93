"""Tests the warning about a GPU that JAX does not see."""

import pytest

from reversion_jax.runtime import device
from reversion_jax.runtime.errors import Caution


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Simulates a machine with an NVIDIA GPU on which JAX uses the CPU. Returns the path of the driver's file."""
    file = tmp_path / "version"
    file.touch()
    monkeypatch.setattr(device, "_DRIVERS", {str(file): ("an NVIDIA GPU", "cuda")})
    monkeypatch.setattr(device.jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return file


def test_the_warning_about_a_gpu_that_jax_does_not_see_says_what_to_install(driver):
    with pytest.warns(Caution, match=r"has an NVIDIA GPU that JAX does not see, .*reversion_jax\[cuda\]") as told:
        device.warn_of_unseen()
    assert "\n" not in str(told[0].message)


def test_there_is_no_warning_if_the_gpu_is_used_or_unwanted_or_absent(driver, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the user chose the CPU
    device.warn_of_unseen()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(device.jax, "default_backend", lambda: "gpu")
    device.warn_of_unseen()
    monkeypatch.undo()
    driver.unlink()
    device.warn_of_unseen()
