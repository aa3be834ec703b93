"""Reads models from diffusers folders and single-file checkpoints into parameter trees, without PyTorch."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from reversion_jax.diffusion.own_sampler import OwnSampler
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


class StableDiffusion(NamedTuple):
    """A Stable Diffusion model: its config, its weights, and what its files say about sampling.

    params: the trees of "text_encoder", "unet" and "vae", as arrays on devices. The text encoder and the UNet have the
    dtype that `load` was given. The token table and the VAE are always float32.
    """

    config: ModelConfig
    schedule: Schedule
    params: Params
    tokenizer_folder: Path
    own_sampler: OwnSampler = OwnSampler()
    products: str = "float32"  # the precision of float32 products, see runtime/precision.py


class Opened(NamedTuple):
    """A model whose files have been checked, but whose weights have not been read."""

    config: ModelConfig
    schedule: Schedule
    tokenizer_folder: Path
    own_sampler: OwnSampler
    networks: dict[str, network.Network]
    tensors: dict[str, dict[str, Stored]]  # the tensors that `read` will read, by network and path

    def types(self, dtype: DTypeLike) -> dict[str, dict[str, DTypeLike]]:
        """Returns the dtype of each weight, by network and path, if text encoder and UNet are to have `dtype`."""
        # These weights are always float32: learned rows are compared with the token table's rows, and rounding in the
        # VAE is visible in pictures.
        exact = lambda part, path: part == "vae" or path == TOKEN_TABLE
        return {
            part: {path: jnp.float32 if exact(part, path) else dtype for path in tensors}
            for part, tensors in self.tensors.items()
        }

    def blank(self, dtype: DTypeLike) -> StableDiffusion:
        """Returns the model with shapes and dtypes in place of weights, which suffices to compile programs."""
        shapes = parameter_shapes(self.config)
        of_part = {
            part: {path: jax.ShapeDtypeStruct(shapes[part][path], kind) for path, kind in own.items()}
            for part, own in self.types(dtype).items()
        }
        return self._with({part: unflatten_dict(own, sep="/") for part, own in of_part.items()})

    def read(self, dtype: DTypeLike, put: Callable[[Params], Params] = jax.device_put) -> StableDiffusion:
        """Reads the weights tensor by tensor and puts them on devices.

        Raises ValueError if a tensor holds integers, NaN or infinity.
        """
        types = self.types(dtype)
        params = {
            part: network.place(tensors, self.networks[part], types[part], put)
            for part, tensors in self.tensors.items()
        }
        return self._with(params)

    def _with(self, params: Params) -> StableDiffusion:
        return StableDiffusion(self.config, self.schedule, params, self.tokenizer_folder, self.own_sampler)


def load(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    config: ModelConfig = SD15,
    put: Callable[[Params], Params] = jax.device_put,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> StableDiffusion:
    """Loads a diffusers folder or a single-file checkpoint of any float type onto devices.

    dtype: the type of text encoder and UNet on the device. put: places trees of arrays on devices, by default on JAX's
    first device. For the other arguments and the errors see `open_model` and `Opened.read`.
    """
    return open_model(path, config=config, variant=variant).read(dtype, put)


def open_model(
    path: str | Path,
    *,
    config: ModelConfig = SD15,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> Opened:
    """Opens and checks a diffusers folder or a single-file checkpoint, without reading its weights.

    A folder's weights are safetensors, whole or sharded, full precision or "fp16", or the msgpack of diffusers' former
    Flax classes. The tokenizer of a single file is in tokenizer/ beside it, or else CLIP's from the hub.
    config: the config to use for a single file, which contains no config. variant: the VAE in it must be a local folder
    or file.

    Raises ValueError if a file is missing or damaged, a config is not Stable Diffusion 1.x's, or weights are missing or
    have the wrong shape; for weights, the message lists all that are missing or misshaped in all three networks.
    """
    path = Path(path)
    if path.is_dir():
        if variant.ema:
            raise ValueError(f"ema: {path} is a folder, and only a single file can hold averages: leave ema out")
        config = load_config(path)
        schedule, own_sampler = _read_schedule(path)
        tokenizer_folder = path / "tokenizer"
        parts = {
            part: network.open_folder(path / part, part) for part in WEIGHT_FILES if not (part == "vae" and variant.vae)
        }
    else:
        parts, predicts = _open_single_file(path, config, variant)
        schedule, own_sampler = Schedule(prediction_type=predicts), OwnSampler()
        tokenizer_folder = clip_tokenizer(path)
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
    tensors = {
        name: {path: tensor for path, tensor in matched[name].found.items() if path in kept[name]} for name in shapes
    }
    return Opened(config, schedule, tokenizer_folder, own_sampler, parts, tensors)


def _skipping(config: ModelConfig, clip_skip: int) -> ModelConfig:
    """Returns the config without the text encoder's last `clip_skip` layers; the final normalisation stays.

    Raises ValueError if no layer would be left.
    """
    layers = config.text.num_hidden_layers - clip_skip
    if clip_skip < 0 or layers < 1:
        raise ValueError(
            f"clip_skip={clip_skip}: the text encoder has {config.text.num_hidden_layers} layers, so give less, or 0"
        )
    return dataclasses.replace(config, text=dataclasses.replace(config.text, num_hidden_layers=layers))


def _read_schedule(folder: Path) -> tuple[Schedule, OwnSampler]:
    """Reads a folder's schedule and sampler.

    Corrects the values of old files as diffusers' pipeline does, with a warning.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    values = _read_config(path)
    corrected = {"steps_offset": 1, "clip_sample": False}
    if told := [f"{key} {values[key]} as {new}" for key, new in corrected.items() if values.get(key, new) != new]:
        warn(f"{path}: reads {', '.join(told)}, as diffusers' Stable Diffusion pipeline does")
    return Schedule.from_json(values | corrected), OwnSampler.from_json(values)


def load_config(path: str | Path, config: ModelConfig = SD15) -> ModelConfig:
    """Reads only the networks' config.json files; for a single file, returns `config`. Raises like `open_model`."""
    path = Path(path)
    if not path.is_dir():
        families.check_single_file(path, _open_file(path), needs_vae=False)  # the user may give another VAE
        return config
    families.check_folder(path)
    return ModelConfig(
        text=CLIPTextConfig.from_json(_read_config(path / "text_encoder" / "config.json")),
        unet=UNetConfig.from_json(_read_config(path / "unet" / "config.json")),
        vae=VAEConfig.from_json(_read_config(path / "vae" / "config.json")),
    )


@functools.cache
def parameter_shapes(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shape of every parameter, by network and "/"-joined path, without allocating the parameters."""
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
    """Opens a single file; returns its networks, and what its UNet predicts ("epsilon" or "v_prediction")."""
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
    """Reads a config.json.

    Replaces names of former Flax classes by those of PyTorch classes with the same config keys.
    """
    values = read_json(path)
    if isinstance(said := values.get("_class_name"), str):
        values["_class_name"] = said.removeprefix("Flax")
    return values
