"""Tests the wheel in a separate environment, and the files that state the version.

    pytest -m long tests/test_wheel.py

This command installs the wheel and trains, once with the oldest and once with the newest versions of all packages. The
command downloads these packages.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from places import ROOT, copy_source, runs
from safetensors.numpy import load_file

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_changelog_and_citation_name_this_version():
    version = PROJECT["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == version
    assert f"\n## {version} ({cited['date-released']})\n" in (ROOT / "CHANGELOG.md").read_text()


def newest_python() -> str:
    """Returns the newest Python on this machine, because the newest versions of some packages need a new Python."""
    for name in ("python3.14", "python3.13", "python3.12"):
        if runs(name):
            return name
    return sys.executable


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, copy_source(place / "source")]
    subprocess.run(build, check=True)
    (built,) = place.glob("*.whl")
    return built


def installed(wheel: Path, place: Path, resolution: str) -> Path:
    """Installs the wheel into a new environment in `place` and returns the environment's Python.

    uv installs the packages, because pip cannot choose the oldest versions.
    """
    python, tools = place / "env" / "bin" / "python", place / "tools" / "bin" / "python"
    of_python = newest_python() if resolution == "highest" else sys.executable
    subprocess.run([of_python, "-m", "venv", place / "env"], check=True)
    subprocess.run([sys.executable, "-m", "venv", place / "tools"], check=True)
    subprocess.run([tools, "-m", "pip", "install", "-q", "uv"], check=True)
    choose = ["--python", python, "--only-binary", ":all:", "--resolution", resolution, "--system-certs"]
    needed = PROJECT["dependencies"]  # uv takes the lowest versions only of packages that the command names
    subprocess.run([tools, "-m", "uv", "pip", "install", *choose, wheel, *needed], check=True)
    subprocess.run([tools, "-m", "uv", "pip", "list", "--python", python], check=True)
    return python


@pytest.mark.long
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_the_wheel_trains_with_the_oldest_and_the_newest_packages(resolution, wheel, tmp_path):
    """The environment has no other packages, and the commands run in a folder outside the repository."""
    python, place = installed(wheel, tmp_path, resolution), tmp_path / "elsewhere"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    place.mkdir()

    def run(module: str, *arguments: str) -> str:
        line = [python, "-m", module, *arguments]
        done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "python -m reversion_jax.train" in run("reversion_jax", "--help")
    settings = {"steps": 3, "steps_per_dispatch": 3, "sample_steps": 2, "judged_prompts": 0}
    settings["preview_prompts"] = ("red circle <R> blue star", "blue star <R-inv> <R> red circle")
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    run("reversion_jax.train", "--config", "configs/miniature.py", "--workdir", "run", *overrides)
    assert (place / "run" / "contact_sheet.png").is_file()
    run("reversion_jax.export", "--workdir", "run", "--out", "words")
    assert load_file(place / "words" / "hanging_from.safetensors")["<R>"].shape == (1, 128)
