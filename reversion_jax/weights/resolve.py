"""Finds a model by what a user calls it: "miniature", a folder, a file, or an id on the Hugging Face hub."""

import functools
import re
from pathlib import Path

from reversion_jax.weights.folder import load_config
from reversion_jax.weights.hub import fetch
from reversion_jax.weights.layout import check_file, snapshot_files

_MINIATURE = Path(__file__).parents[1] / "miniature" / "snapshot"


def resolve(model: str) -> Path:
    """The local folder or file of a model, downloaded first if need be.

    model: "miniature" (ships with this package), a folder in diffusers' layout, a single-file checkpoint
    (.safetensors), or a hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5", of which "@revision" picks a
    branch, tag or commit. ValueError, saying what to do, if it cannot be had.
    """
    if model == "miniature":
        if not _MINIATURE.is_dir():
            raise ValueError(
                "the miniature's weights are not installed: run python -m reversion_jax.miniature.pretrain"
            )
        return _MINIATURE
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        check_file(path)
        return path
    hub_id = re.fullmatch(r"(\w[\w.-]*/[\w.-]+?)(?:@([\w./-]+))?", model)
    if not hub_id or path.suffix in (".safetensors", ".ckpt", ".pt"):
        raise ValueError(
            f'{model!r} is neither a folder, nor a .safetensors file, nor "miniature", nor a hub id such as owner/name'
        )
    try:
        return _from_hub(*hub_id.groups())
    except ValueError as error:
        raise ValueError(f"no folder {model}, and {error}") from error


@functools.cache  # a command may ask for its model's config first and for its weights later
def _from_hub(repository: str, revision: str | None) -> Path:
    return fetch(repository, revision, functools.partial(snapshot_files, where=repository), load_config)
