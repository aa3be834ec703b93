"""Tests that step and drawing are compiled only once, in the background while the weights are read."""

import itertools
import json
import logging
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from places import ROOT
from tiny_run import changed

from reversion_jax.training import ahead, loop, prepare


@pytest.fixture
def compilations(caplog):
    """A function that returns the name and the thread of each program that JAX has compiled."""
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)  # the context manager would set it for one thread only
    with caplog.at_level(logging.WARNING, logger="jax"):
        yield lambda: [
            (record.getMessage().split("jit(")[1].split(")")[0], record.threadName)
            for record in caplog.records
            if record.getMessage().startswith("Finished XLA compilation of jit(")
        ]
    jax.config.update("jax_log_compiles", False)


def test_step_and_drawing_are_compiled_once_and_in_the_background(config, finished, tmp_path, compilations):
    rows = loop.train(config, tmp_path / "run")
    np.testing.assert_array_equal(rows, finished[1])
    found = compilations()
    programs = {"_train_steps": "compiling", "_draw_batch": "compiling", "encode_text": "compiling", "_encode": None}
    for name, where in programs.items():
        threads = [thread for compiled, thread in found if compiled == name]
        assert len(threads) == 1, name
        assert where in (None, *threads), name


def test_the_run_folder_says_when_each_part_of_the_start_began_and_ended(config, tmp_path):
    """The step is compiled in the background, from before the exemplars are encoded."""
    loop.train(changed(config, steps=2), tmp_path)
    parts = json.loads((tmp_path / "startup.json").read_text())
    began, ended = ({name: times[i] for name, times in parts.items()} for i in (0, 1))
    in_turn = (
        "read the exemplars",
        "open the model",
        "read the prompts",
        "read the weights",
        "encode the exemplars",
        "train the first steps",
        "draw the first preview",
    )
    assert list(began) == sorted(began, key=began.get)
    assert set(parts) == {*in_turn, "compile the step", "compile the drawing"}
    assert all(0 <= began[name] <= ended[name] for name in parts)
    assert all(ended[one] <= began[next_one] for one, next_one in itertools.pairwise(in_turn))
    for program in ("compile the step", "compile the drawing"):
        assert ended["read the exemplars"] <= began[program] < began["encode the exemplars"]
    assert ended["compile the step"] <= ended["train the first steps"]
    assert ended["compile the drawing"] <= ended["draw the first preview"]


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
def test_a_stop_or_an_error_ends_the_command_without_waiting_for_the_compiler(how, status, says):
    began = time.monotonic()
    command = [sys.executable, "-c", STOPPED, "60", how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (status, says)
    assert time.monotonic() - began < 30


def test_without_a_stop_or_an_error_python_waits_for_the_compiler():
    code = """if True:
        import time
        from reversion_jax.runtime import compilation
        compilation.in_background(lambda: (time.sleep(1), print("compiled", flush=True)))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "compiled\n", "")


def test_weights_are_read_while_the_compiler_works(config, monkeypatch):
    """The exemplars are also encoded while the compiler works."""
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
    assert not job.step_compiled.done()
    assert np.isfinite(job.data.mean).all()
    may_end.set()
    with pytest.raises(ValueError, match="not compiled"):  # the compiler's error is raised when the program is needed
        prepare.advance(job, prepare.first_state(job), 1, 2)
