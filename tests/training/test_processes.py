"""Tests that a job of several processes gives the results of one process, also after a crash.

The processes communicate by collectives on the CPU.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_run
from places import ROOT

from reversion_jax.runs import folder


@pytest.fixture(scope="module")
def command(small, tmp_path_factory):
    """The command line of a run on the tiny model, without --workdir."""
    settings = tiny_run.inputs(tmp_path_factory.mktemp("processes"), small)
    settings |= {"batch_size": 4, "steps": 24, "checkpoint_every_steps": 6, "preview_every_steps": 0}
    return tiny_run.command(settings)


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    """The folder of a run that one process trained with the same command."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    done = subprocess.run(
        [*command, "--workdir", str(workdir)],
        cwd=ROOT,
        env=tiny.environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return workdir


def start(command, workdir, processes):
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", str(processes), "--"]
    line = [*launcher, *command, "--distributed", "--workdir", str(workdir)]
    return subprocess.Popen(
        line, cwd=ROOT, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


def assert_same_run(workdir, alone):
    run, wanted = folder.read(workdir), folder.read(alone).rows
    assert run.step == 24
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3  # both words started from the same word
    np.testing.assert_allclose(run.rows, wanted, atol=1e-5)
    histories = [(place / "metrics.jsonl").read_text().splitlines() for place in (workdir, alone)]
    assert [json.loads(line)["step"] for line in histories[0]] == list(range(1, 25))
    losses = [[json.loads(line)["denoising"] for line in lines] for lines in histories]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert sorted(p.name for p in workdir.iterdir()) == sorted(p.name for p in alone.iterdir())


@pytest.mark.long
def test_a_run_of_four_processes_equals_a_run_of_one_process(command, alone, tmp_path):
    """Two processes share one copy of the weights, so each process needs weights from another process."""
    split = [*command, "--config.weight_shards=2", "--config.remat=True", "--config.preview_every_steps=24"]
    out = finish(start(split, tmp_path / "run", 4))
    assert out.count("nearest words of <R>") == 1  # only the first process prints
    assert "4 of 4: each has 1 of 4 samples, 2 hold the weights together" in out
    previews = tmp_path / "run" / "previews"
    assert len(list(previews.iterdir())) == 2
    shutil.rmtree(previews)
    assert_same_run(tmp_path / "run", alone)


def test_a_run_of_two_processes_equals_a_run_of_one_process(command, alone, tmp_path):
    """The two processes share one copy of the weights, so each process needs weights from the other process."""
    split = [*command, "--config.weight_shards=2", "--config.remat=True"]
    out = finish(start(split, tmp_path / "run", 2))
    assert out.count("nearest words of <R>") == 1  # only the first process prints
    assert_same_run(tmp_path / "run", alone)


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in Linux's /proc")
def test_a_run_of_two_processes_restarted_after_a_crash_equals_a_run_of_one_process(command, alone, tmp_path):
    workdir = tmp_path / "run"
    crashing = start(command, workdir, 2)
    history = workdir / "metrics.jsonl"
    deadline = time.time() + 300
    while not history.exists() or len(history.read_text().splitlines()) < 8:
        assert crashing.poll() is None, crashing.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.05)
    os.kill(int(children(crashing)[-1]), signal.SIGKILL)
    crashing.communicate(timeout=120)
    assert crashing.returncode != 0
    assert "resumed at step" in finish(start(command, workdir, 2))
    assert_same_run(workdir, alone)


def test_more_processes_than_samples_are_refused(command, tmp_path):
    process = start([*command, "--config.batch_size=1"], tmp_path / "run", 2)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "error: 1 samples keep only 1 of 2 processes busy" in out
    assert "Traceback" not in out
