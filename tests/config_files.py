"""The configs of configs/, by their names."""

import runpy

from ml_collections import ConfigDict
from places import CONFIGS


def load(name: str, *arguments: str) -> ConfigDict:
    """What a config file gives to the command that reads it."""
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](*arguments)
