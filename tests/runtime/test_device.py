"""Tests the warning about a GPU that JAX does not see, and how many devices JAX makes of a CPU's cores."""

import os
import subprocess
import sys

import pytest
from places import ROOT

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


@pytest.mark.parametrize(
    ("model", "cores", "environment", "devices"),
    [
        ("miniature", 2, {}, 2),
        ("miniature", 7, {}, 4),
        ("miniature", 64, {}, 8),
        ("sd-legacy/stable-diffusion-v1-5", 2, {}, 1),
        ("miniature", 2, {"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ("miniature", 2, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
    ],
)
def test_each_core_is_a_device_for_the_miniature_only(model, cores, environment, devices):
    code = f"""if True:
        import os
        os.sched_getaffinity = lambda _: range({cores})
        import jax
        from reversion_jax.runtime import device
        device.use_cores({model!r})
        print(jax.device_count())
    """
    plain = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    plain |= {"JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=50)
    assert done.stdout == f"{devices}\n", done.stderr
