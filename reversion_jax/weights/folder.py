"""Diffusers' folder layout of safetensors <-> parameter trees; strict both ways, without PyTorch."""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.models.clip import CLIPTextConfig, CLIPTextEncoder
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.unet import UNet, UNetConfig
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.weights import names

Params = dict[str, Any]

WEIGHT_FILES = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
# Buffers that some versions of PyTorch's classes stored beside the parameters.
_NOT_PARAMETERS = {"text_model.embeddings.position_ids"}
_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


class StableDiffusion(NamedTuple):
    """A model as it lies in a folder."""

    config: ModelConfig
    schedule: Schedule
    params: Params  # float32 trees of "text_encoder", "unet" and "vae"
    tokenizer_folder: Path


def load(folder: str | Path) -> StableDiffusion:
    """Reads a diffusers folder: safetensors, whole or sharded, of any float type, cast to float32.

    ValueError if a file is missing, a config is not Stable Diffusion 1.x's, or weights are missing, left over
    or of the wrong shape; the last error names all such weights of all three networks.
    """
    folder = Path(folder)
    config = load_config(folder)
    schedule = Schedule.from_json(_read_json(folder / "scheduler" / "scheduler_config.json"))
    params, complaints = {}, []
    for part, shapes in parameter_shapes(config).items():
        weights = _read_weights(folder / part, WEIGHT_FILES[part])
        params[part], found = _fit(weights, shapes)
        complaints += [f"  {part}: {complaint}" for complaint in found]
    if complaints:
        raise ValueError("\n".join([f"the weights in {folder} do not fit their configs:", *complaints]))
    return StableDiffusion(config, schedule, params, folder / "tokenizer")


def load_config(folder: str | Path) -> ModelConfig:
    """Reads only the networks' config.json files; ValueError as in `load`."""
    folder = Path(folder)
    return ModelConfig(
        text=CLIPTextConfig.from_json(_read_json(folder / "text_encoder" / "config.json")),
        unet=UNetConfig.from_json(_read_json(folder / "unet" / "config.json")),
        vae=VAEConfig.from_json(_read_json(folder / "vae" / "config.json")),
    )


def save(folder: str | Path, model: StableDiffusion, dtype: DTypeLike = np.float16) -> None:
    """Writes a folder that `load`, and `diffusers.StableDiffusionPipeline.from_pretrained`, can read.

    The text encoder is always float32: transformers computes in its file's dtype, diffusers' networks in float32.
    ValueError, before anything is written, if a parameter tree does not have its config's names and shapes.
    """
    folder = Path(folder)
    configs = {"text_encoder": model.config.text, "unet": model.config.unet, "vae": model.config.vae}
    for part, shapes in parameter_shapes(model.config).items():
        given = {path: array.shape for path, array in flatten_dict(model.params[part], sep="/").items()}
        if given != shapes:
            wrong = sorted(path for path, _ in given.items() ^ shapes.items())
            raise ValueError(f"{part} parameters do not fit their config: {', '.join(dict.fromkeys(wrong))}")
    for part, config in configs.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        weights = {}
        stored = np.float32 if part == "text_encoder" else dtype
        for path, array in flatten_dict(model.params[part], sep="/").items():
            array = names.to_torch(path, np.asarray(array)).astype(stored)
            weights[names.torch_names(path)[0]] = np.ascontiguousarray(array)
        # Without this mark diffusers and transformers refuse the file.
        save_file(weights, folder / part / f"{WEIGHT_FILES[part]}.safetensors", {"format": "pt"})
        _write_json(folder / part / "config.json", config.to_json())
    _write_json(folder / "scheduler" / "scheduler_config.json", model.schedule.to_json())
    _write_json(folder / "model_index.json", _MODEL_INDEX)
    if (folder / "tokenizer").resolve() != Path(model.tokenizer_folder).resolve():
        shutil.copytree(model.tokenizer_folder, folder / "tokenizer", dirs_exist_ok=True)


@functools.cache
def parameter_shapes(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every parameter, by network and "/"-joined path; nothing is allocated."""
    key = jax.random.key(0)
    side = 2 ** len(config.unet.block_out_channels)
    latents = jnp.zeros((1, side, side, config.unet.in_channels))
    context = jnp.zeros((1, 1, config.unet.cross_attention_dim))
    images = jnp.zeros((1, config.vae.downscale, config.vae.downscale, 3))
    ids = jnp.zeros((1, 1), jnp.int32)
    trees = {
        "text_encoder": jax.eval_shape(CLIPTextEncoder(config.text).init, key, ids),
        "unet": jax.eval_shape(UNet(config.unet).init, key, latents, ids[0], context),
        "vae": jax.eval_shape(VAE(config.vae).init, key, images),
    }
    return {
        part: {path: leaf.shape for path, leaf in flatten_dict(tree["params"], sep="/").items()}
        for part, tree in trees.items()
    }


def _fit(weights: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Params, list[str]]:
    """Moves `weights` into a tree of `shapes`; also returns what is missing, misshaped or left over."""
    params, complaints = {}, []
    for path, shape in shapes.items():
        candidates = names.torch_names(path)
        name = next((n for n in candidates if n in weights), None)
        if name is None:
            complaints.append(f"missing {candidates[0]}")
            continue
        stored = weights.pop(name)
        params[path] = np.ascontiguousarray(names.from_torch(path, stored), np.float32)
        if params[path].shape != shape:
            wanted = names.to_torch(path, np.empty(shape, np.bool_)).shape
            complaints.append(f"misshaped {name}: {stored.shape}, expected {wanted}")
    complaints += [f"unexpected {name}" for name in weights if name not in _NOT_PARAMETERS]
    return unflatten_dict(params, sep="/"), complaints


def _read_weights(folder: Path, stem: str) -> dict[str, np.ndarray]:
    index = folder / f"{stem}.safetensors.index.json"
    whole = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
    if index.is_file() and not (folder / whole[0]).is_file():
        files = sorted(set(_read_json(index)["weight_map"].values()))
    else:
        files = [name for name in whole if (folder / name).is_file()][:1]
    if not files:
        raise ValueError(f"no {stem}.safetensors in {folder}")
    weights = {}
    for name in files:
        try:
            weights |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read {folder / name}: {error}") from error
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
