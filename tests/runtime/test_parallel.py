import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from places import ROOT

from reversion_jax.runtime import parallel


def compare(*arguments):
    """Runs eight_devices.py with eight simulated devices and returns its report."""
    here = Path(__file__).parent
    environment = tiny.environment("--xla_force_host_platform_device_count=8")
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(here.parent), str(ROOT)])}
    command = [sys.executable, str(here / "eight_devices.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compared(small):
    return compare(small)


@pytest.mark.long
def test_results_of_eight_devices_equal_those_of_one_device_with_added_inverse_prompts(small):
    compared = compare(small, "added")
    assert compared["moved"] > 1e-3
    for name in ("eight", "split"):
        rows, losses, _ = compared[name]["differences"]
        assert rows < 1e-5
        assert losses < 1e-5
    assert compared["eight"]["passes"] == [["all-reduce", 4 * (2 * 32 + 1)]]


def test_results_of_eight_devices_equal_those_of_one_device(compared):
    """Compares losses, learned rows, and images from a sampler that adds noise.

    The rows are compared after four steps of two micro-batches each.
    """
    assert compared["devices"] == 8
    assert compared["moved"] > 1e-3
    rows, losses, images = compared["eight"]["differences"]
    assert rows < 1e-5
    assert losses < 1e-5
    assert images < 1e-4


def test_devices_exchange_only_the_gradients_of_rows_and_the_losses(compared):
    assert compared["one"]["passes"] == []
    assert compared["eight"]["passes"] == [["all-reduce", 4 * (2 * 32 + 1)]]  # gradients of two rows, and a loss


def test_results_of_four_devices_that_share_the_weights_equal_those_of_one_device(compared):
    rows, losses, images = compared["split"]["differences"]
    assert rows < 1e-5
    assert losses < 1e-5
    assert images < 1e-4


def weight_bytes(tree):
    """Returns the bytes of all arrays, and the bytes of the kernels that four devices can share."""
    leaves = flatten_dict(tree)
    shared = [leaf for path, leaf in leaves.items() if path[-1] == "kernel" and any(n % 4 == 0 for n in leaf.shape)]
    return sum(leaf.nbytes for leaf in leaves.values()), sum(leaf.nbytes for leaf in shared)


def test_a_device_holds_a_quarter_of_the_weights_and_gathers_the_other_weights(compared, small_model):
    sizes = {part: weight_bytes(tree) for part, tree in small_model.model.params.items()}
    whole, cut = (sum(size[i] for size in sizes.values()) for i in range(2))
    assert compared["eight"]["held"] == compared["one"]["held"] == whole
    assert compared["split"]["held"] == whole - cut * 3 // 4
    assert cut > 0.93 * whole
    networks = sizes["text_encoder"][1] + sizes["unet"][1]
    passes = Counter()
    for kind, size in compared["split"]["passes"]:
        passes[kind] += size
    # Devices gather the text encoder's weights once. Devices gather the UNet's weights in the forward and in the
    # backward pass, except for some of the first and last layers. The rows' gradients are summed as if each
    # device had all weights.
    assert 1.75 * networks <= passes["all-gather"] < 2 * networks
    assert passes == {"all-gather": passes["all-gather"], "all-reduce": 4 * (2 * 32 + 1)}


@pytest.mark.parametrize("devices", [-1, 10_000])
def test_a_number_of_devices_that_the_machine_does_not_have_is_refused(devices):
    with pytest.raises(ValueError, match=rf"devices={devices}: there are \d+ cpu devices"):
        parallel.make_mesh(8, devices)


def test_weight_shards_that_do_not_divide_the_samples_are_refused():
    with pytest.raises(ValueError, match=r"weight_shards=3 devices cannot share 8 samples evenly"):
        parallel.make_mesh(8, 0, 3)


def test_replicated_arrays_keep_their_values_and_their_mesh():
    mesh = parallel.make_mesh(8)
    tree = parallel.replicate({"a": np.arange(3.0), "key": jax.random.key(0)}, mesh)
    np.testing.assert_array_equal(tree["a"], np.arange(3.0))
    assert parallel.mesh_of(tree) == mesh
    assert parallel.mesh_of({"a": np.zeros(3)}).size == 1
