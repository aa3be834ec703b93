"""The step is compiled while the weights are read, and only then."""

import logging
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from places import ROOT

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


STOPPED = """if True:
    import sys, time
    from reversion_jax.runtime import compilation, errors

    @errors.one_line
    def main(argv):
        compilation.in_background(lambda: time.sleep(float(argv[1])))
        raise KeyboardInterrupt if argv[2] == "stop" else ValueError("bad input")

    main(sys.argv)
"""


@pytest.mark.parametrize(("how", "status", "says"), [("stop", 130, "stopped\n"), ("fail", 2, "error: bad input\n")])
def test_who_stops_need_not_wait_for_the_compiler(how, status, says):
    began = time.monotonic()
    command = [sys.executable, "-c", STOPPED, "60", how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (status, says)
    assert time.monotonic() - began < 30


def test_python_itself_waits_for_it():
    code = """if True:
        import time
        from reversion_jax.runtime import compilation
        compilation.in_background(lambda: (time.sleep(1), print("compiled", flush=True)))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "compiled\n", "")


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
