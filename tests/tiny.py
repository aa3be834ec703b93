"""A tiny Stable Diffusion with the kinds of blocks of SD 1.5: config, weights from a seed, tokenizer and outputs."""

import dataclasses
import functools
import json
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from reversion_jax.diffusion.guidance import guided_denoiser
from reversion_jax.diffusion.samplers import ddim
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.models.clip import CLIPTextConfig, CLIPTextEncoder
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.unet import UNet, UNetConfig
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.weights import names
from reversion_jax.weights.folder import WEIGHT_FILES, StableDiffusion, parameter_shapes

LENGTH = 12
# `quick_jit` compiles faster than `jax.jit`, and its compiled programs are slower.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# Returns the environment for a new process: this process's environment, with the settings of conftest.py, and further
# XLA flags.
environment = lambda *flags: os.environ | {"XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *flags])}
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("cat", "dog", "on", "top", "of", "photo")

# Every group of a GroupNorm has several channels. With one channel, GroupNorm would cancel the time embedding.
CONFIG = ModelConfig(
    text=CLIPTextConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        projection_dim=32,
    ),
    unet=UNetConfig(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        cross_attention_dim=32,
        norm_num_groups=8,
    ),
    vae=VAEConfig(
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=4,
    ),
)


# A model with fewer blocks, which compiles in half the time. Tests of training use this model, because these tests do
# not compare the outputs of networks.
SMALL = dataclasses.replace(
    CONFIG,
    text=dataclasses.replace(CONFIG.text, num_hidden_layers=1),
    unet=dataclasses.replace(
        CONFIG.unet,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(32,),
        layers_per_block=1,
    ),
    vae=dataclasses.replace(CONFIG.vae, layers_per_block=1),
)


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns uniform noise with zero mean and unit variance, made of raw bits, which are the same in every NumPy."""
    bits = np.random.PCG64(seed).random_raw(math.prod(shape))
    return ((bits / 2**64 - 0.5) * math.sqrt(12)).reshape(shape).astype(np.float32)


def torch_weights(shapes: dict[str, dict[str, list[int]]], seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns weights for {part: {PyTorch's name: shape}}. Each weight has a visible effect on the outputs."""
    weights = {}
    for part, named in shapes.items():
        weights[part] = {}
        for i, (name, shape) in enumerate(sorted(named.items())):
            x = noise(seed * 1000 + i, tuple(shape))
            if name.endswith("bias"):
                x *= 0.1
            elif len(shape) == 1:
                x = 1 + 0.1 * x
            elif "embedding.weight" in name:
                x *= 0.4
            else:
                # Small kernels give small variances, so that a wrong epsilon in a normalisation shows.
                x *= (0.3 if len(shape) == 4 else 1) / math.sqrt(math.prod(shape[1:]))
            weights[part][name] = x
    return weights


def torch_shapes(config: ModelConfig) -> dict[str, dict[str, list[int]]]:
    """Returns the shapes of a model's weights, by part and PyTorch's name."""
    in_torch = lambda path, shape: list(names.to_torch(path, np.broadcast_to(np.False_, shape)).shape)
    return {
        part: {names.torch_names(path)[0]: in_torch(path, shape) for path, shape in named.items()}
        for part, named in parameter_shapes(config).items()
    }


def write_tokenizer(folder: Path) -> Path:
    """Writes a tokenizer in CLIP's file format. Its vocabulary is printable ASCII and WORDS."""
    # Byte-level BPE writes a printable ASCII character as itself. The tests use no other characters.
    letters = [chr(i) for i in range(33, 127)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    merges = list(dict.fromkeys(merges))
    tokens = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    specials = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **specials}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_folder(folder: Path, weights: dict[str, dict[str, np.ndarray]], config: ModelConfig = CONFIG) -> Path:
    """Writes a diffusers folder without using our `save`. The folder's tokenizer fits CONFIG."""
    configs = {"text_encoder": config.text, "unet": config.unet, "vae": config.vae}
    for part, values in configs.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(values.to_json()))
        save_file(weights[part], folder / part / f"{WEIGHT_FILES[part]}.safetensors", {"format": "pt"})
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(Schedule().to_json()))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    write_tokenizer(folder / "tokenizer")
    return folder


def safetensors(tensors: dict[str, tuple[str, np.ndarray]]) -> bytes:
    """Returns a safetensors file of {name: (safetensors' name of the type, array)}. NumPy's writer lacks some types."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def inputs(seed: int) -> dict[str, np.ndarray]:
    """Returns the inputs of the comparisons, NCHW as in PyTorch. Odd sizes make the UNet's upsampling crop."""
    ids = np.random.PCG64(seed).random_raw(2 * LENGTH).reshape(2, LENGTH) % 598
    ids[:, 0], ids[:, -2:] = 598, 599
    ids[:, 4] = 7  # "row_grad" is the gradient of this row
    return {
        "ids": ids.astype(np.int32),
        "negative_ids": ids[::-1].astype(np.int32),
        "latents": noise(seed + 1, (2, 4, 8, 8)),
        "wide_latents": noise(seed + 2, (1, 4, 10, 7)),
        "noise": noise(seed + 3, (2, 4, 8, 8)),
        "timesteps": np.array([7, 843], np.int32),
        "states": noise(seed + 4, (2, LENGTH, 32)),
        "image": np.tanh(noise(seed + 5, (1, 3, 16, 24))),
        "scaled_latents": noise(seed + 6, (1, 4, 8, 12)),
    }


OUTPUTS = (
    "text",
    "unet",
    "unet_wide",
    "vae_mean",
    "vae_std",
    "vae_decoded",
    "trajectory",
    "sampled",
    "row_grad",
)


def mistaken_output(name: str, model: StableDiffusion, x: dict[str, np.ndarray]) -> np.ndarray:
    """Returns `output` for code that a test has changed. It runs without jit, because compiling would take longer."""
    with jax.disable_jit():
        return output(name, model, x)


def output(name: str, model: StableDiffusion, x: dict[str, np.ndarray]) -> np.ndarray:
    """Returns one of OUTPUTS, computed from `inputs`; NCHW. The tests compare it with PyTorch's output."""
    calls = _calls(model.config)
    text, unet, vae = (model.params[part] for part in ("text_encoder", "unet", "vae"))
    if name == "text":
        return np.asarray(calls["text"](text, x["ids"]))
    if name == "unet":
        return nchw(calls["unet"](unet, nhwc(x["latents"]), x["timesteps"], x["states"]))
    if name == "unet_wide":
        return nchw(calls["unet"](unet, nhwc(x["wide_latents"]), x["timesteps"][1:], x["states"][1:]))
    if name in ("vae_mean", "vae_std"):
        return nchw(calls["encode"](vae, nhwc(x["image"]))[name == "vae_std"])
    if name == "vae_decoded":
        return nchw(calls["decode"](vae, nhwc(x["scaled_latents"])))
    if name == "trajectory":
        return nchw(calls["trajectory"](nhwc(x["latents"]), x["states"]))
    if name == "sampled":
        return nchw(calls["sample"](text, unet, x["ids"], x["negative_ids"], nhwc(x["latents"])))
    if name == "row_grad":
        row = text["text_model"]["embeddings"]["token_embedding"]["embedding"][7]
        pairs = nhwc(x["latents"]), nhwc(x["noise"]), x["timesteps"]
        return np.asarray(calls["grad"](row, text, unet, x["ids"], *pairs))
    raise ValueError(name)


@functools.cache
def _calls(config: ModelConfig):
    text, unet, vae = CLIPTextEncoder(config.text), UNet(config.unet), VAE(config.vae)

    def predict(params, latents, timesteps, states):
        return unet.apply({"params": params}, latents, timesteps, states)

    def encode_text(params, ids):
        return text.apply({"params": params}, ids)

    def sample(text_params, unet_params, ids, negative_ids, latents):
        denoiser = guided_denoiser(
            functools.partial(predict, unet_params),
            encode_text(text_params, negative_ids),
            encode_text(text_params, ids),
            7.5,
        )
        return ddim(denoiser, latents, Schedule(), 4, None)

    def trajectory(latents, states):
        # Samples with guidance and with a formula in place of the network.
        def formula(latents, timesteps, states):
            return (
                jnp.tanh(latents) + states.mean((1, 2))[:, None, None, None] * (timesteps / 1000)[:, None, None, None]
            )

        return ddim(guided_denoiser(formula, states[::-1], states, 7.5), latents, Schedule(), 10, None)

    def loss(row, text_params, unet_params, ids, latents, target, timesteps):
        embeddings = text.apply({"params": text_params}, ids, method="embed")
        embeddings = jnp.where((ids == 7)[..., None], row[None, None], embeddings)
        states = text.apply({"params": text_params}, embeddings, method="encode")
        noisy = Schedule().add_noise(latents, target, timesteps)
        return jnp.mean((predict(unet_params, noisy, timesteps, states) - target) ** 2)

    calls = {
        "text": encode_text,
        "unet": predict,
        "encode": lambda params, x: vae.apply({"params": params}, x, method="encode"),
        "decode": lambda params, x: vae.apply({"params": params}, x, method="decode"),
        "sample": sample,
        "trajectory": trajectory,
        "grad": jax.grad(loss),
    }
    return {name: quick_jit(call) for name, call in calls.items()}


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.transpose(x, (0, 2, 3, 1))


def nchw(x: np.ndarray) -> np.ndarray:
    return np.transpose(np.asarray(x), (0, 3, 1, 2))


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the relative error in the Euclidean norm."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def weight_file(path, part):
    return path / part / f"{WEIGHT_FILES[part]}.safetensors"


def assert_same_params(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x, y)
