import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reversion_jax.fit import fit


@jax.jit
def walk(state, batch):
    """A training step whose result depends on every batch and on their order."""
    return {"w": state["w"] * 0.9 + jnp.sum(batch)}, {"sum": jnp.sum(batch)}


def batch_fn(step):
    return np.random.default_rng(step).normal(size=(jax.device_count(), 3)).astype(np.float32)


def test_an_interrupted_stage_goes_on_to_the_step(tmp_path):
    start = {"w": jnp.zeros(3)}
    whole = fit("walk", start, walk, batch_fn, 12, tmp_path / "whole")

    def breaks(step):
        if step == 7:
            raise InterruptedError
        return batch_fn(step)

    with pytest.raises(InterruptedError):
        fit("walk", start, walk, breaks, 12, tmp_path / "cut")
    np.testing.assert_array_equal(fit("walk", start, walk, batch_fn, 12, tmp_path / "cut")["w"], whole["w"])
    finished = fit("walk", start, walk, lambda step: 1 / 0, 12, tmp_path / "cut")
    np.testing.assert_array_equal(finished["w"], whole["w"])


def test_a_stage_that_diverges_says_where(tmp_path):
    with pytest.raises(FloatingPointError, match="walk: not finite at step 0"):
        fit("walk", {"w": jnp.zeros(3)}, walk, lambda step: np.full((1, 3), np.nan, np.float32), 3, tmp_path)
