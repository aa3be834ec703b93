"""A run that is killed many times gives the same bits as a run that is not killed."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny
import tiny_run
from places import ROOT

from reversion_jax.runs import export, folder

pytestmark = pytest.mark.long
KILLS, IN_CHECKPOINTS, AFTER_FIRST_STEP = 20, 5, 10


@pytest.fixture(scope="module")
def command(small, tmp_path_factory):
    """The command line, without --workdir, of a run that takes seconds and writes a checkpoint every second step."""
    settings = tiny_run.inputs(tmp_path_factory.mktemp("killed"), small)
    settings |= {"steps": 400, "checkpoint_every_steps": 2, "preview_every_steps": 200}
    return tiny_run.command(settings)


def start(command: list[str], workdir: Path) -> subprocess.Popen:
    line = [*command, "--workdir", str(workdir)]
    return subprocess.Popen(
        line, cwd=ROOT, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def writes_checkpoint(workdir: Path) -> bool:
    """Returns whether a checkpoint is being written. Orbax renames the folder when it is complete."""
    try:
        return any("orbax-checkpoint-tmp" in path.name for path in (workdir / "checkpoints").iterdir())
    except OSError:
        return False


def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bits(command, tmp_path):
    whole, workdir, rng = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    assert start(command, whole).wait() == 0
    in_checkpoints = after_first_step = 0
    for number in range(KILLS):
        process = start(command, workdir)
        history = workdir / "metrics.jsonl"
        size = history.stat().st_size if history.exists() else 0
        # Every fourth kill comes at any moment, also during start-up. The other kills come after a step, and two thirds
        # of these come while a checkpoint is written.
        if number % 4:
            while process.poll() is None and (not history.exists() or history.stat().st_size <= size):
                time.sleep(0.002)
            ends = time.time() + rng.uniform(0, 0.5)
            while process.poll() is None and (time.time() < ends or (number % 2 and not writes_checkpoint(workdir))):
                time.sleep(0.0002)
            after_first_step += 1
        else:
            time.sleep(rng.uniform(0.5, 8))
        in_checkpoints += writes_checkpoint(workdir)
        assert process.poll() is None  # the run has not finished before the kill
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(command, workdir).wait() == 0
    print(f"{KILLS} kills, {in_checkpoints} while a checkpoint was written, {after_first_step} after the first step")
    assert in_checkpoints >= IN_CHECKPOINTS
    assert after_first_step >= AFTER_FIRST_STEP
    for place in (whole, workdir):
        export.export(folder.epath.Path(place), folder.epath.Path(tmp_path / f"{place.name}-out"))
    for path in (tmp_path / "whole-out").iterdir():
        assert path.read_bytes() == (tmp_path / "killed-out" / path.name).read_bytes()
    assert sorted(os.listdir(whole)) == sorted(os.listdir(workdir))
