"""Reads the settings that suit a model (sizes, rates, steps, prompts) from a small file in the model's folder.

The file is reversion_jax.json, beside model_index.json. The file's values are only defaults: settings that the user
makes take precedence. The file may hold only the keys in KEYS. Instead of paths, the file has names of this package's
word lists, so that a folder from a stranger cannot make a command read the user's files.
"""

import functools
from collections.abc import Mapping
from typing import Any

from reversion_jax import config
from reversion_jax.inversion import words
from reversion_jax.weights import resolve
from reversion_jax.weights.stored import read_json

FILE = resolve.OWN_SETTINGS
_NUMBERS = tuple(key for key, value in config.FOR_SD15.items() if isinstance(value, int | float))
_DREAMBOOTH = ("steps", "batch_size", "learning_rate")
KEYS = (*_NUMBERS, "prepositions", "verbs", "exemplars", "preview_prompts", "dreambooth")


@functools.cache
def _read(model: str) -> Mapping[str, Any]:
    """Returns all values in a model's file, after checking that they are allowed; {} if there is no file."""
    folder = resolve.small_files(model)
    path = folder / FILE if folder else None
    if path is None or not path.is_file():
        return {}
    values = read_json(path)
    for key, value in values.items():
        if not _is_allowed(key, value):
            raise ValueError(
                f"{path} sets {key!r} to {value!r}: it may only set {', '.join(KEYS)}, with the values that "
                "reversion_jax/weights/own_settings.py allows"
            )
    return values


def read(model: str) -> dict[str, Any]:
    """Returns the settings in a model's file, by their names in config.py; {} if the model has no such file.

    Raises ValueError if the file cannot be read, or holds a key or a value that is not allowed.
    """
    own = {key: value for key, value in _read(model).items() if key != "dreambooth"}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}


def read_dreambooth(model: str) -> dict[str, Any]:
    """Returns a model's settings for DreamBooth; {} if the model has no such settings.

    Raises ValueError as `read` does.
    """
    return dict(_read(model).get("dreambooth", {}))


def _is_allowed(key: str, value: Any) -> bool:
    """Returns whether a model's file may set `key` to `value`."""
    if key in _NUMBERS:
        return _is_number(value, config.FOR_SD15[key])
    if key in ("prepositions", "verbs"):
        return value in words.NAMES
    if key == "exemplars":
        return value == config.DRAWN
    if key == "preview_prompts":
        return isinstance(value, list) and all(isinstance(prompt, str) for prompt in value)
    if key == "dreambooth" and isinstance(value, dict):
        return all(name in _DREAMBOOTH and _is_number(number, config.FOR_SD15[name]) for name, number in value.items())
    return False


def _is_number(value: Any, like: Any) -> bool:
    """Returns whether a value is an integer, or a float if `like` is a float. Booleans do not count."""
    return type(value) is int or (type(value) is float and isinstance(like, float))
