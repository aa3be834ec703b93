import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from reversion_jax import parallel


@pytest.fixture(scope="module")
def compared(recorded):
    """What eight_devices.py says of one and eight devices."""
    here = Path(__file__).parent
    environment = tiny.quick_environment("--xla_force_host_platform_device_count=8")
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(here.parent)}
    command = [sys.executable, str(here / "eight_devices.py"), str(recorded.folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_equal_one(compared):
    """Rows after four steps of two micro-batches, losses, and images from a sampler that adds noise."""
    assert compared["devices"] == 8
    assert compared["moved"] > 1e-3
    rows, losses, images = compared["differences"]
    assert rows < 1e-5
    assert losses < 1e-5
    assert images < 1e-4


def test_only_the_rows_gradients_pass_between_devices(compared):
    assert compared["one"] == []
    assert compared["eight"] == [["all-reduce", ["f32[2,32]", "f32[1]"]]]  # and the runs' losses


@pytest.mark.parametrize("devices", [-1, 10_000])
def test_devices_that_are_not_there(devices):
    with pytest.raises(ValueError, match=rf"config.devices={devices}: there are \d+ cpu devices"):
        parallel.make_mesh(8, devices)


def test_replicate_keeps_values_and_remembers_its_mesh():
    mesh = parallel.make_mesh(8)
    tree = parallel.replicate({"a": np.arange(3.0), "key": jax.random.key(0)}, mesh)
    np.testing.assert_array_equal(tree["a"], np.arange(3.0))
    assert parallel.mesh_of(tree) == mesh
    assert parallel.mesh_of({"a": np.zeros(3)}).size == 1
