"""The folders that tests read, and what tests of an installation need: the source to install, and a Python."""

import shutil
import subprocess
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"  # real inputs; this folder beside the repository need not exist


def copy_source(place: Path) -> Path:
    """Copies the files from which the package is built into the new folder `place`, and returns `place`."""
    for name in ("reversion_jax", "configs"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    return place


def runs(python: str) -> bool:
    """Returns whether the command `python` runs. A version manager may provide a command that does not run."""
    found = shutil.which(python)
    return bool(found) and subprocess.run([found, "--version"], capture_output=True).returncode == 0
