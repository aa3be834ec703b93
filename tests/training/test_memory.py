"""Tests how many samples go through the networks at once."""

import dataclasses
import itertools
import re
import types

import pytest
from places import ROOT

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.models.presets import SD15
from reversion_jax.runtime import parallel
from reversion_jax.training import memory

PAGE = ROOT / "docs" / "many_devices.md"
SETTLED = dataclasses.replace(settings.settle(Settings()), precision="bfloat16")


def most(gib, **changes) -> int:
    return memory.most_on_a_device(dataclasses.replace(SETTLED, **changes), SD15, gib)


def test_more_memory_or_less_work_allows_more_samples_at_once():
    assert [most(gib) for gib in (1, 6, 80)] == sorted({most(gib) for gib in (1, 6, 80)})
    assert most(1) == 1
    for eased in ({"remat": True}, {"resolution": 256}, {"height": 256}):
        assert most(8, **eased) > most(8)
    assert most(16, precision="float32") < most(16)
    assert most(16, precision="float16") == most(16)


def test_the_estimated_memory_equals_the_measured_memory():
    """An H100 in bfloat16 needed 2.5 GiB for 2 samples and 6.3 GiB for 8 samples, without the weights.

    For TPUs, Google's compiler asks for 0.90 GiB per sample.
    """
    beside = lambda samples, platform: memory.needed(SETTLED, SD15, samples, platform) - memory.weights(SETTLED, SD15)
    assert [beside(2, "gpu"), beside(8, "gpu")] == pytest.approx([2.5, 6.3], rel=0.05)
    assert beside(2, "tpu") - beside(1, "tpu") == pytest.approx(0.9)
    assert memory.most_on_a_device(SETTLED, SD15, 15.75, "tpu") < most(15.75)


def test_weights_need_as_much_memory_as_those_of_stable_diffusion():
    """In PyTorch, the text encoder has 123,060,480 numbers, the UNet 859,520,964 and the VAE 83,653,863."""
    assert memory.weights(SETTLED, SD15) == pytest.approx((982_581_444 * 2 + 83_653_863 * 4) / 2**30, rel=1e-4)


def test_the_table_of_samples_at_once_in_the_docs_equals_the_estimates():
    """Each GPU column of the table names the GPU's memory. JAX takes three quarters of a GPU's memory by default."""
    table = re.findall(r"^\| ([a-z]+\d+), .* \| (yes|no) \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(table) == 4
    for precision, remat, cells in table:
        config = dataclasses.replace(SETTLED, precision=precision, remat=remat == "yes")
        devices = [(gb * 0.75, "gpu") for gb in (6, 8, 12, 16, 24)] + [(15.75, "tpu")]
        fits = lambda gib, kind, config=config: memory.needed(config, SD15, 1, kind) <= gib
        found = [str(memory.most_on_a_device(config, SD15, *device)) if fits(*device) else "–" for device in devices]
        assert cells.split(" | ") == found


@pytest.mark.parametrize(
    ("runs", "given", "at_once"), [(1, 8, 8), (1, 100, 8), (1, 5, 4), (1, 3, 3), (10, 12, 12), (10, 30, 27), (1, 1, 1)]
)
def test_a_step_is_divided_into_passes_of_nearly_equal_size(runs, given, at_once):
    config = dataclasses.replace(SETTLED, samples_at_once=given)
    assert memory.samples_at_once(config, SD15, runs) == at_once


@pytest.mark.parametrize("devices", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_resumed_run_gets_the_same_samples_at_once_again(devices, shards):
    """A run stores the number, and the stored number is the maximum when the run is resumed."""
    for given, groups in itertools.product(range(1, 25), range(1, 25)):
        config = dataclasses.replace(SETTLED, devices=devices, weight_shards=shards, batch_size=1, accumulation=groups)
        first = memory.samples_at_once(dataclasses.replace(config, samples_at_once=given), SD15, 1)
        again = memory.samples_at_once(dataclasses.replace(config, samples_at_once=first), SD15, 1)
        assert again == first <= min(given, groups)


@pytest.mark.parametrize(
    ("devices", "runs", "given", "at_once", "busy"),
    [
        (2, 72, 40, 40, 2),
        (8, 10, 30, 24, 8),
        (8, 10, 12, 8, 8),
        (8, 1, 40, 8, 8),
        (6, 1, 40, 8, 4),
        (8, 1, 5, 4, 4),
        (4, 1, 3, 3, 3),
    ],
)
def test_a_pass_keeps_as_many_devices_busy_as_it_can(monkeypatch, devices, runs, given, at_once, busy):
    device = type("Device", (), {"process_index": 0, "id": 0, "platform": "cpu"})
    monkeypatch.setattr(parallel.jax, "devices", lambda: [device() for _ in range(devices)])
    config = dataclasses.replace(SETTLED, samples_at_once=given, devices=devices)
    assert memory.samples_at_once(config, SD15, runs) == at_once
    assert parallel.make_mesh(at_once, devices).size == busy


def test_a_sample_with_two_prompts_counts_as_two_samples():
    config = dataclasses.replace(SETTLED, inverse_prompts="add", samples_at_once=100)
    assert memory.samples_at_once(config, SD15, 1) == 16
    without = dataclasses.replace(config, method="reversion", inverse_share=0.0)
    assert memory.samples_at_once(without, SD15, 1) == 8


@pytest.mark.parametrize(("gib", "at_once"), [(6, 2), (80, 8)])
def test_by_default_the_devices_memory_limits_samples_at_once(monkeypatch, gib, at_once):
    told = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": gib * 2**30})
    monkeypatch.setattr(memory.jax, "devices", lambda: [told])
    assert memory.samples_at_once(SETTLED, SD15, 1) == at_once


def test_the_memory_of_a_cpu_is_positive_and_bounded():
    assert 0 < memory.device_memory(types.SimpleNamespace(platform="cpu")) < 1e4
