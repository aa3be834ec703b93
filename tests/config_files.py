"""Loads the config files of configs/ by name."""

import runpy

from ml_collections import ConfigDict
from places import CONFIGS


def load(name: str, *arguments: str) -> ConfigDict:
    """Returns the ConfigDict of configs/NAME.py, as a command gets it."""
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*arguments)
