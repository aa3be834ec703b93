"""Tests that the launch scripts start a command that `train` accepts. Fake programs replace the clusters' tools."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

# The arguments that each script takes before the config.
SCRIPTS = {
    "gke.sh": ["my-cluster", "hug", "v5litepod-256"],
    "gpu_box.sh": [],
    "slurm.sh": [],
    "tpu_vm.sh": ["my-tpu", "us-west4-a"],
}
# A fake tool that runs the command which the real tool would run on the workers.
RUNS_COMMAND = """while (($#)); do
  if [ "$1" = --command ]; then exec bash -c "$2"; fi
  shift
done"""
TOOLS = {"gcloud": RUNS_COMMAND, "xpk": RUNS_COMMAND, "srun": 'exec "$@"'} | dict.fromkeys(["git", "tar", "pip", "uv"])
RECORDS = f"""#!{sys.executable}
import json, os, sys
open(os.environ["RECORD"], "a").write(json.dumps(sys.argv[1:]) + "\\n")
"""
TRAIN = """
import runpy
from reversion_jax.runtime import parallel
parallel.start = lambda: print("joined the others")
runpy.run_module("reversion_jax.train", run_name="__main__")
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_every_launch_script_is_tested():
    assert sorted(path.name for path in (ROOT / "launch").glob("*.sh")) == sorted(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.skipif(not shutil.which("bash"), reason="the scripts are bash's")
def test_a_launch_script_starts_training_with_the_given_arguments(name, tmp_path):
    for tool, body in TOOLS.items():
        write(tmp_path / "bin" / tool, f"#!/usr/bin/env bash\n{body or ':'}\n")
    for python in ("bin/python", ".venv/bin/python", "reversion/.venv/bin/python"):
        write(tmp_path / python, RECORDS)
    record = tmp_path / "record"
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "RECORD": str(record)}
    workdir, mine = str(tmp_path / "it's mine"), ["--config.exemplars=no one's folder", "--config.seed=7"]
    arguments = [*SCRIPTS[name], "configs/hug.py", workdir, *mine]
    script = [str(ROOT / "launch" / name), *arguments]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (started,) = map(json.loads, record.read_text().splitlines())
    assert started[:2] == ["-m", "reversion_jax.train"]
    assert started[-2:] == mine
    assert started[started.index("--workdir") + 1] == workdir

    command = [sys.executable, "-c", TRAIN, *started[2:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stderr == (
        'error: no folder of exemplars at "no one\'s folder": put 4-10 pictures and a text.json there, your own or the '
        "ReVersion Benchmark's (README.md explains how), or give another folder by --config.exemplars=FOLDER\n"
    )
    assert ("joined the others" in done.stdout) == (name != "gpu_box.sh")
