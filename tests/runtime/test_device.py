"""A GPU that JAX does not see is told of."""

import pytest

from reversion_jax.runtime import device
from reversion_jax.runtime.errors import Caution


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine with an NVIDIA GPU, whose JAX computes on the CPU."""
    file = tmp_path / "version"
    file.touch()
    monkeypatch.setattr(device, "_DRIVERS", {str(file): ("an NVIDIA GPU", "cuda")})
    monkeypatch.setattr(device.jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return file


def test_it_is_said_how_to_mend_it(driver):
    with pytest.warns(Caution, match=r"has an NVIDIA GPU that JAX does not see, .*reversion_jax\[cuda\]") as told:
        device.warn_of_unseen()
    assert "\n" not in str(told[0].message)


def test_nothing_is_said_where_all_is_well(driver, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # as the user wants it
    device.warn_of_unseen()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(device.jax, "default_backend", lambda: "gpu")
    device.warn_of_unseen()
    monkeypatch.undo()
    driver.unlink()
    device.warn_of_unseen()
