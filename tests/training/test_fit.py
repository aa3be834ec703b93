import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reversion_jax.training.fit import fit, gradient_step


@jax.jit
def walk(state, batch):
    """A training step whose result depends on every batch and on the order of the batches."""
    return {"w": state["w"] * 0.9 + jnp.sum(batch)}, {"sum": jnp.sum(batch)}


def batch_fn(step):
    return np.random.default_rng(step).normal(size=(jax.device_count(), 3)).astype(np.float32)


def test_a_stage_continued_after_an_interruption_equals_an_uninterrupted_stage(tmp_path):
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


def test_an_error_about_divergence_names_stage_and_step(tmp_path):
    with pytest.raises(FloatingPointError, match="walk: not finite at step 0"):
        fit("walk", {"w": jnp.zeros(3)}, walk, lambda step: np.full((1, 3), np.nan, np.float32), 3, tmp_path)


def test_gradient_descent_follows_the_closed_form():
    """The loss is the squared distance to a point. Each step shortens the distance by a tenth."""
    loss_fn = lambda w, point, scale: (0.5 * scale * jnp.sum((w - point) ** 2), {"far": jnp.max(jnp.abs(w - point))})
    optimiser = optax.sgd(0.05, momentum=0.0)
    step_fn = gradient_step(loss_fn, optimiser)
    point = jnp.array([1.0, -2.0])
    state = jnp.zeros(2), optimiser.init(jnp.zeros(2))
    for step in range(3):
        state, metrics = step_fn(state, (point, 2.0))
        np.testing.assert_allclose(metrics["far"], 2 * 0.9**step, rtol=1e-6)
    np.testing.assert_allclose(state[0], (1 - 0.9**3) * point, rtol=1e-6)
