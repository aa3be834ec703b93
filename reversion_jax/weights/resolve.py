"""Finds a model by the name that the user gave: "miniature", a folder, a file, or an id on the Hugging Face hub."""

import functools
from pathlib import Path

from reversion_jax.config import MINIATURE
from reversion_jax.models.presets import ModelConfig
from reversion_jax.weights import hub
from reversion_jax.weights.folder import load_config
from reversion_jax.weights.layout import OWN_SETTINGS, check_file, snapshot_files

MINIATURE_FOLDER = Path(__file__).parents[1] / "miniature" / "snapshot"


def resolve(model: str) -> Path:
    """Returns the local folder or file of a model, which is downloaded first if `model` is a hub id.

    model: "miniature" (comes with this package), a folder in diffusers' layout, a single-file checkpoint
    (.safetensors), or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5", optionally followed by
    "@revision" (a branch, tag or commit). Raises ValueError if there is no such model; the message says what to do.
    """
    if path := _local(model):
        if path.is_file():
            check_file(path)
        return path
    hub_id = hub.parse_id(model)
    if not hub_id or Path(model).suffix in (".safetensors", ".ckpt", ".pt"):
        raise ValueError(
            f'{model!r} is neither a folder, nor a .safetensors file, nor "miniature", nor a hub id such as owner/name'
        )
    try:
        return _from_hub(*hub_id)
    except ValueError as error:
        raise ValueError(f"no folder {model}, and {error}") from error


def read_config(model: str) -> ModelConfig:
    """Returns the sizes of a model's networks. Does not download a hub model's weights. Raises like `resolve`."""
    hub_id = None if _local(model) else hub.parse_id(model)
    if not hub_id:
        return load_config(resolve(model))

    def choose(names: list[str]) -> list[str]:
        return [name for name in snapshot_files(names, hub_id[0]) if name.endswith(".json")]

    try:
        return load_config(hub.fetch(*hub_id, choose, quiet=True))
    except ValueError as error:
        raise ValueError(f"no folder {model}, and {error}") from error


def small_files(model: str) -> Path | None:
    """Returns the folder in which the model's reversion_jax.json is, if the model has this file.

    Downloads nothing but this file from the hub. Returns None for a single file, for a repository without the file, and
    if the hub cannot be reached; in the last case, `resolve` will say why. A local folder is returned without looking
    into it.
    """
    if path := _local(model):
        return path if path.is_dir() else None
    hub_id = hub.parse_id(model)
    if not hub_id:
        return None

    def choose(names: list[str]) -> list[str]:
        if OWN_SETTINGS not in names:
            raise ValueError(f"{model} has no {OWN_SETTINGS}")
        return [OWN_SETTINGS]

    try:
        return hub.fetch(*hub_id, choose, quiet=True)
    except ValueError:
        return None


def _local(model: str) -> Path | None:
    path = MINIATURE_FOLDER if model == MINIATURE else Path(model).expanduser()
    return path if path.exists() else None


@functools.cache  # a command may need its model's config first and the weights later
def _from_hub(repository: str, revision: str | None) -> Path:
    return hub.fetch(repository, revision, functools.partial(snapshot_files, where=repository), load_config)
