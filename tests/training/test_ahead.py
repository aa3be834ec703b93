"""The step is compiled while the weights are read, and only then."""

import logging
import threading

import jax
import numpy as np
import pytest

from reversion_jax.training import ahead, loop, prepare


@pytest.fixture
def compilations(caplog):
    """The names of the programs that JAX has compiled, each with its thread."""
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)  # not the context manager, which is for one thread
    with caplog.at_level(logging.WARNING, logger="jax"):
        yield lambda: [
            (record.getMessage().split("jit(")[1].split(")")[0], record.threadName)
            for record in caplog.records
            if record.getMessage().startswith("Finished XLA compilation of jit(")
        ]
    jax.config.update("jax_log_compiles", False)


def test_the_step_is_compiled_once_and_ahead(config, finished, tmp_path, compilations):
    rows = loop.train(config, tmp_path / "run")
    np.testing.assert_array_equal(rows, finished[1])
    found = compilations()
    assert [thread for name, thread in found if name == "train_steps"] == ["compiling"]
    names = [name for name, _ in found if name.startswith("_draw") or name == "_encode"]
    assert sorted(names) == ["_draw_batch", "_encode"]


def test_the_weights_need_not_wait(config, monkeypatch):
    """They are read, and the pictures encoded, while the compiler is still at work."""
    began, may_end = threading.Event(), threading.Event()

    class Slow:
        @staticmethod
        def lower(*_, **__):
            began.set()
            assert may_end.wait(60)
            raise ValueError("not compiled")

    monkeypatch.setattr(ahead.step, "train_steps", Slow)
    job = prepare.prepare(prepare.settle(config), compile_ahead=True)
    assert began.wait(60)
    assert not job.compiled.done()
    assert np.isfinite(job.data.mean).all()
    may_end.set()
    with pytest.raises(ValueError, match="not compiled"):  # what goes wrong there is told where it is needed
        prepare.advance(job, prepare.first_state(job), 1, 2)
