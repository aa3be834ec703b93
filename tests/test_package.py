"""Tests what the installed package contains: all folders and files, the configs, and lazy public names."""

import subprocess
import sys
import tomllib

import pytest
from places import CONFIGS, ROOT

import reversion_jax
from reversion_jax.runtime import errors

PACKAGE = ROOT / "reversion_jax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_the_wheel_has_every_folder():
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")}
    found = {".".join(folder.parts) for folder in folders}
    assert set(PROJECT["packages"]) == found | {"reversion_jax.configs"}
    assert PROJECT["package-dir"] == {"reversion_jax.configs": "configs"}


def test_the_wheel_has_every_data_file():
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    carried = set()
    for package, patterns in PROJECT["package-data"].items():
        for pattern in patterns:
            carried |= set(ROOT.joinpath(*package.split(".")).glob(pattern))
    assert files <= carried


def test_a_config_file_of_the_user_is_preferred_to_the_config_of_the_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert errors._find_config("configs/hug.py") == str(CONFIGS / "hug.py")
    assert errors._find_config("configs/evaluation.py:easy") == f"{CONFIGS / 'evaluation.py'}:easy"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "hug.py").write_text("")
    assert errors._find_config("configs/hug.py") == "configs/hug.py"
    with pytest.raises(SystemExit):
        errors._find_config("configs/none.py")


def test_every_public_name_is_a_documented_callable():
    assert set(reversion_jax.__all__) == set(reversion_jax._PUBLIC)
    for name in reversion_jax.__all__:
        assert callable(getattr(reversion_jax, name))
        assert getattr(reversion_jax, name).__doc__
        assert not (PACKAGE / f"{name}.py").exists()  # a command with that name would hide it
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = reversion_jax.nothing


def test_importing_the_package_and_listing_its_names_loads_no_jax():
    code = "import sys, reversion_jax; dir(reversion_jax); assert not {'jax', 'orbax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_package_lists_its_commands():
    done = subprocess.run([sys.executable, "-m", "reversion_jax"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    commands = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "config"}
    listed = {line.split()[2].split(".")[1] for line in done.stdout.splitlines() if "-m reversion_jax." in line}
    assert listed == commands
