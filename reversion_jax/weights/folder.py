"""Model files <-> parameter trees: diffusers' folders both ways, single files; strict, without PyTorch."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from numpy.typing import DTypeLike
from safetensors.numpy import save_file

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.models.clip import TOKEN_TABLE, CLIPTextConfig, CLIPTextEncoder
from reversion_jax.models.presets import SD15, ModelConfig
from reversion_jax.models.unet import UNet, UNetConfig
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import compvis, families, names, network, vae_file
from reversion_jax.weights.hub import clip_tokenizer
from reversion_jax.weights.layout import WEIGHT_FILES, check_file
from reversion_jax.weights.stored import Stored, open_safetensors, read_json
from reversion_jax.weights.variant import Variant, single_files_prediction

Params = dict[str, Any]

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
    """A model as it lies in a folder or file.

    params: trees of "text_encoder", "unet" and "vae", arrays on JAX's default device; float32, or as `load` was asked
    for: text encoder and UNet in another dtype, but the token table and the VAE always in float32.
    """

    config: ModelConfig
    schedule: Schedule
    params: Params
    tokenizer_folder: Path


def load(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    config: ModelConfig = SD15,
    put: Callable[[Params], Params] = jax.device_put,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> StableDiffusion:
    """Reads a diffusers folder or a single-file checkpoint of any float type, tensor by tensor, onto the device.

    A folder's weights are safetensors, whole or sharded, full or "fp16", or the msgpack of diffusers' former Flax
    classes. dtype: that of text encoder and UNet on the device, see StableDiffusion. config: a single file's, which
    says nothing of it; its tokenizer is in tokenizer/ beside it or CLIP's from the hub. put: lays trees of arrays on
    devices, by default on JAX's first. variant: see `Variant`; its VAE is a folder or file of this machine.

    ValueError if a file is missing or damaged, a config is not Stable Diffusion 1.x's, or weights are missing, of the
    wrong shape or not finite; an error of the first two kinds names all such weights of all three networks.
    """
    path = Path(path)
    if path.is_dir():
        if variant.ema:
            raise ValueError(f"ema: {path} is a folder, whose weights are one kind only: leave ema out")
        config = load_config(path)
        schedule, tokenizer_folder = _read_schedule(path), path / "tokenizer"
        parts = {
            part: network.open_folder(path / part, part) for part in WEIGHT_FILES if not (part == "vae" and variant.vae)
        }
    else:
        parts, predicts = _open_single_file(path, config, variant)
        schedule, tokenizer_folder = Schedule(prediction_type=predicts), clip_tokenizer(path)
    if variant.vae:
        of_vae, parts["vae"] = vae_file.open_vae(Path(variant.vae), config.vae)
        config = dataclasses.replace(config, vae=of_vae)
    if variant.prediction_type:
        schedule = dataclasses.replace(schedule, prediction_type=variant.prediction_type)
    shapes = parameter_shapes(config)
    matched = {name: network.match(part, shapes.get(name, {})) for name, part in parts.items()}
    network.check(path, matched)
    config = _skipping(config, variant.clip_skip)
    kept = parameter_shapes(config)
    params = {}
    for name in shapes:
        # Never in less than float32: rows are compared with the table's, and pictures show the VAE's errors.
        exact = {TOKEN_TABLE: jnp.float32}
        used = {path: tensor for path, tensor in matched[name].found.items() if path in kept[name]}
        params[name] = network.place(used, parts[name], jnp.float32 if name == "vae" else dtype, exact, put)
    return StableDiffusion(config, schedule, params, tokenizer_folder)


def _skipping(config: ModelConfig, clip_skip: int) -> ModelConfig:
    """The config without the text encoder's last `clip_skip` layers; its last normalisation stays. ValueError."""
    layers = config.text.num_hidden_layers - clip_skip
    if clip_skip < 0 or layers < 1:
        raise ValueError(f"clip_skip={clip_skip}: the text encoder has {config.text.num_hidden_layers} layers")
    return dataclasses.replace(config, text=dataclasses.replace(config.text, num_hidden_layers=layers))


def _read_schedule(folder: Path) -> Schedule:
    """A folder's schedule, with what diffusers' StableDiffusionPipeline corrects in old files; a word says so."""
    path = folder / "scheduler" / "scheduler_config.json"
    values = _read_config(path)
    corrected = {"steps_offset": 1, "clip_sample": False}
    if told := [f"{key} {values[key]} as {new}" for key, new in corrected.items() if values.get(key, new) != new]:
        warn(f"{path}: {', '.join(told)}, as Stable Diffusion's pipeline takes it")
    return Schedule.from_json(values | corrected)


def load_config(path: str | Path, config: ModelConfig = SD15) -> ModelConfig:
    """Reads only the networks' config.json files; `config` for a single file. ValueError as in `load`."""
    path = Path(path)
    if not path.is_dir():
        families.check_single_file(path, _open_file(path), needs_vae=False)  # which may be another's
        return config
    families.check_folder(path)
    return ModelConfig(
        text=CLIPTextConfig.from_json(_read_config(path / "text_encoder" / "config.json")),
        unet=UNetConfig.from_json(_read_config(path / "unet" / "config.json")),
        vae=VAEConfig.from_json(_read_config(path / "vae" / "config.json")),
    )


def save(folder: str | Path, model: StableDiffusion, dtype: DTypeLike = np.float16) -> None:
    """Writes a folder that `load`, and `diffusers.StableDiffusionPipeline.from_pretrained`, can read.

    The text encoder is always float32: transformers computes in its file's dtype, diffusers' networks in float32.
    ValueError, before anything is written, if a parameter tree does not have its config's names and shapes.
    """
    folder = Path(folder)
    configs: dict[str, CLIPTextConfig | UNetConfig | VAEConfig] = {
        "text_encoder": model.config.text,
        "unet": model.config.unet,
        "vae": model.config.vae,
    }
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


def _open_single_file(path: Path, config: ModelConfig, variant: Variant) -> tuple[dict[str, network.Network], str]:
    """The networks of a single file, and what its UNet predicts."""
    stored = _open_file(path)
    families.check_single_file(path, stored, needs_vae=not variant.vae)
    predicts = single_files_prediction(path, stored)
    if variant.ema:
        try:
            stored = compvis.averaged(stored)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    parts = {}
    for part, tensors in compvis.split(stored).items():
        if tensors or part != "vae":
            called = functools.partial(compvis.compvis_names, part, config=config)
            parts[part] = network.Network(path, tensors, called, names.from_torch, names.to_torch)
    return parts, predicts


def _open_file(path: Path) -> dict[str, Stored]:
    check_file(path)
    return open_safetensors(path)


def _read_config(path: Path) -> dict[str, Any]:
    """A config.json; the former Flax classes' names are said to be PyTorch's, whose configs they took over."""
    values = read_json(path)
    if isinstance(said := values.get("_class_name"), str):
        values["_class_name"] = said.removeprefix("Flax")
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
