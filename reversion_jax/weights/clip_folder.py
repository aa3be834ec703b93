"""Loads a whole CLIP model (text and image encoder), from a folder in transformers' layout or from the hub."""

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

_NAMED_AS = "text_encoder"  # transformers names a CLIP's weight files like this network's files
_SMALL_FILES = re.compile(
    r"config\.json|(pre)?processor_config\.json|tokenizer(_config)?\.json|vocab\.json|merges\.txt"
)


def resolve(model: str) -> Path:
    """Returns the local folder of a CLIP model, which is downloaded first if `model` is a hub id.

    model: a folder, or a hub id such as "openai/clip-vit-large-patch14", optionally followed by "@revision".
    Raises ValueError if there is no such CLIP model; the message says what to do.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    hub_id = parse_id(model)
    if not hub_id:
        raise ValueError(f"{model!r} is neither a folder nor a hub id such as openai/clip-vit-large-patch14")

    def choose(present: list[str]) -> list[str]:
        files = weight_files(_NAMED_AS, [name for name in present if "/" not in name], model)
        return [*(name for name in present if _SMALL_FILES.fullmatch(name)), *files]

    try:
        return fetch(*hub_id, choose, load_config)
    except ValueError as error:
        raise ValueError(f"no folder {model}, and {error}") from error


def load_config(folder: Path) -> CLIPConfig:
    """Reads a CLIP model's config.json.

    Raises ValueError if there is no such file, or if it belongs to another kind of model.
    """
    path = Path(folder) / "config.json"
    try:
        return CLIPConfig.from_json(read_json(path))
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def load(folder: Path) -> tuple[CLIPConfig, dict[str, Any]]:
    """Returns the config of a CLIP and its parameters, in float32 on JAX's default device.

    The folder holds safetensors (whole, sharded or fp16) or msgpack. Raises ValueError if a file is missing or damaged,
    or if weights are missing or have the wrong shape; the message lists all such weights. Warns of unused tensors.
    """
    config = load_config(folder)
    stored = network.open_folder(Path(folder), _NAMED_AS)
    matched = network.match(stored, parameter_shapes(config))
    network.check(Path(folder), {"": matched})
    return config, network.place(matched.found, stored, dict.fromkeys(matched.found, jnp.float32))


@functools.cache
def parameter_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by its "/"-joined path, without allocating the parameters."""
    pixels = jnp.zeros((1, config.vision.image_size, config.vision.image_size, 3))
    tree = jax.eval_shape(CLIP(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32), pixels)
    return {path: leaf.shape for path, leaf in flatten_dict(tree["params"], sep="/").items()}
