"""A whole CLIP, both encoders, as transformers keeps it in a folder or on the hub: config and parameters; strict."""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from reversion_jax.models.clip_vision import CLIP, CLIPConfig
from reversion_jax.weights import network
from reversion_jax.weights.hub import fetch, parse_id
from reversion_jax.weights.layout import weight_files
from reversion_jax.weights.stored import read_json

_NAMED_AS = "text_encoder"  # the weight files, which are transformers' there as well
_BESIDES = re.compile(r"config\.json|(pre)?processor_config\.json|tokenizer(_config)?\.json|vocab\.json|merges\.txt")


def resolve(model: str) -> Path:
    """The local folder of a CLIP: a folder, or a hub id such as "openai/clip-vit-large-patch14" (or "…@revision").

    ValueError, saying what to do, if it cannot be had.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    hub_id = parse_id(model)
    if not hub_id:
        raise ValueError(f"{model!r} is neither a CLIP's folder nor a hub id such as openai/clip-vit-large-patch14")

    def choose(present: list[str]) -> list[str]:
        files = weight_files(_NAMED_AS, [name for name in present if "/" not in name], model)
        return [*(name for name in present if _BESIDES.fullmatch(name)), *files]

    try:
        return fetch(*hub_id, choose, load_config)
    except ValueError as error:
        raise ValueError(f"no folder {model}, and {error}") from error


def load_config(folder: Path) -> CLIPConfig:
    """Reads a CLIP's config.json; ValueError if there is none, or if it is another model's."""
    path = Path(folder) / "config.json"
    try:
        return CLIPConfig.from_json(read_json(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def load(folder: Path) -> tuple[CLIPConfig, dict[str, Any]]:
    """Config and float32 parameters of CLIP, on the device, out of safetensors (whole, sharded, fp16) or msgpack.

    ValueError if a file is missing or damaged, and, naming all of them, if weights are missing, left over or misshaped.
    """
    config = load_config(folder)
    stored = network.open_folder(Path(folder), _NAMED_AS)
    matched = network.match(stored, parameter_shapes(config))
    network.check(Path(folder), {"": matched})
    return config, network.place(matched.found, stored, dict.fromkeys(matched.found, jnp.float32))


@functools.cache
def parameter_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its "/"-joined path; nothing is allocated."""
    pixels = jnp.zeros((1, config.vision.image_size, config.vision.image_size, 3))
    tree = jax.eval_shape(CLIP(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32), pixels)
    return {path: leaf.shape for path, leaf in flatten_dict(tree["params"], sep="/").items()}
