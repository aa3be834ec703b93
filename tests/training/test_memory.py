"""How many samples go through the networks at once."""

import dataclasses
import types

import pytest

from reversion_jax import config as settings
from reversion_jax.config import Settings
from reversion_jax.models.presets import SD15
from reversion_jax.training import memory

SETTLED = dataclasses.replace(settings.settle(Settings()), precision="bfloat16")


def most(gib, **changes) -> int:
    return memory.most_on_a_device(dataclasses.replace(SETTLED, **changes), SD15, gib)


def test_more_memory_and_less_work_make_room():
    assert [most(gib) for gib in (1, 6, 80)] == sorted({most(gib) for gib in (1, 6, 80)})
    assert most(1) == 1
    for eased in ({"remat": True}, {"resolution": 256}, {"height": 256}):
        assert most(8, **eased) > most(8)
    assert most(16, precision="float32") < most(16)
    assert most(16, precision="float16") == most(16)


def test_weights_are_stable_diffusions():
    """By PyTorch's count 123,060,480 + 859,520,964 numbers, and the VAE's 83,653,863."""
    assert memory.weights(SETTLED, SD15) == pytest.approx((982_581_444 * 2 + 83_653_863 * 4) / 2**30, rel=1e-4)


@pytest.mark.parametrize(
    ("runs", "given", "at_once"), [(1, 8, 8), (1, 100, 8), (1, 5, 4), (1, 3, 3), (10, 12, 12), (10, 30, 27), (1, 1, 1)]
)
def test_pieces_are_of_much_the_same_size(runs, given, at_once):
    config = dataclasses.replace(SETTLED, samples_at_once=given)
    assert memory.samples_at_once(config, SD15, runs) == at_once


def test_a_sample_with_two_prompts_counts_twice():
    config = dataclasses.replace(SETTLED, inverse_prompts="add", samples_at_once=100)
    assert memory.samples_at_once(config, SD15, 1) == 16
    without = dataclasses.replace(config, method="reversion", inverse_share=0.0)
    assert memory.samples_at_once(without, SD15, 1) == 8


@pytest.mark.parametrize(("gib", "at_once"), [(6, 2), (80, 8)])
def test_by_itself_it_takes_what_the_device_holds(monkeypatch, gib, at_once):
    told = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": gib * 2**30})
    monkeypatch.setattr(memory.jax, "devices", lambda: [told])
    assert memory.samples_at_once(SETTLED, SD15, 1) == at_once


def test_a_cpus_memory_is_not_ours_alone():
    assert 0 < memory.device_memory(types.SimpleNamespace(platform="cpu")) < 1e4
