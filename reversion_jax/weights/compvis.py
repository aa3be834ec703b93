"""Finds tensors by their names in single-file checkpoints. These names come from CompVis' latent-diffusion code.

In these names, the layers of a UNet are numbered consecutively over all blocks, and the blocks of a VAE's decoder are
numbered starting at the image.
"""

import re
from collections.abc import Mapping

from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.unet import UNetConfig
from reversion_jax.models.vae import VAEConfig
from reversion_jax.weights import names
from reversion_jax.weights.stored import Stored

_PREFIXES = {
    "text_encoder": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}
# Tensors that are no weights: running averages of weights, tables of the noise schedule, and markers.
_NOT_PARAMETERS = re.compile(
    r"model_ema\..*|(alphas|betas|log|posterior|sqrt)\w*|lvlb_weights|scale_factor|v_pred|ztsnr"
)
_UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_VAE = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.attentions.0.": "mid.attn_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "downsamplers.0.": "downsample.",
    "upsamplers.0.": "upsample.",
    "resnets.": "block.",
    "conv_shortcut.": "nin_shortcut.",
    "conv_norm_out.": "norm_out.",
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}


def compvis_names(part: str, path: str, config: ModelConfig) -> tuple[str, ...]:
    """Returns the names that a checkpoint may use for one of our paths.

    part, path: a network and a path in its tree, such as "unet" and "mid_block/resnets_0/conv1/kernel".
    """
    candidates = names.torch_names(path)
    if part == "vae":
        return vae_names(path, config.vae)
    if part == "unet":
        candidates = (_unet_name(candidates[0], config.unet),)
    return tuple(_PREFIXES[part] + name for name in candidates)


def vae_names(path: str, config: VAEConfig) -> tuple[str, ...]:
    """Returns a checkpoint's name for a path in the VAE's tree, as a tuple of one name."""
    return (_PREFIXES["vae"] + _vae_name(names.torch_names(path)[0], config),)


def averaged(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Returns the tensors; replaces the UNet's tensors by their running averages.

    Raises ValueError if an average is missing.
    """
    prefix = _PREFIXES["unet"]
    averages = {}
    for name in (name for name in stored if name.startswith(prefix)):
        average = f"model_ema.{name.removeprefix('model.').replace('.', '')}"
        if average not in stored:
            raise ValueError(f"it holds no running average (EMA) of {name}: leave ema out")
        averages[name] = stored[average]
    return {**stored, **averages}


def split(stored: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Returns a checkpoint's tensors by network; "other" has the tensors that belong to no network.

    Tensors that are known not to be weights are left out.
    """
    parts: dict[str, dict[str, Stored]] = {part: {} for part in (*_PREFIXES, "other")}
    for name, tensor in stored.items():
        if not _NOT_PARAMETERS.fullmatch(name):
            part = next((part for part, prefix in _PREFIXES.items() if name.startswith(prefix)), "other")
            parts[part][name] = tensor
    return parts


def _unet_name(name: str, config: UNetConfig) -> str:
    """Converts diffusers' name for a tensor of the UNet to CompVis' name, without the prefix."""
    numbered = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.*)", name)
    if numbered:
        side, block, kind, layer, rest = numbered.groups()
        block, layers = int(block), config.layers_per_block
        # On the way down, conv_in has index 0. Every block takes layers + 1 indices: on the way down, the last index is
        # the downsampler; on the way up, all indices are layers, and the last layer's index includes the upsampler.
        index = (side == "down") + block * (layers + 1) + (layers if kind.endswith("samplers") else int(layer))
        attends = config.up_block_types[block].startswith("CrossAttn")
        place = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1 + attends}[kind]
        name = f"{'input' if side == 'down' else 'output'}_blocks.{index}.{place}.{rest}"
        if kind == "downsamplers":
            name = name.replace(".conv.", ".op.")
    else:
        name = _replace(name, _UNET)
    return name if ".transformer_blocks." in name else _replace(name, _UNET_RESNET)


def _vae_name(name: str, config: VAEConfig) -> str:
    """Converts diffusers' name for a tensor of the VAE to CompVis' name, without the prefix."""
    last = len(config.block_out_channels) - 1
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", name)
    return _replace(name, _VAE)


def _replace(name: str, renamed: Mapping[str, str]) -> str:
    """Replaces each part of a dotted name that is a key of `renamed` by the key's value."""
    for old, new in renamed.items():
        name = re.sub(rf"(^|\.){re.escape(old)}", rf"\g<1>{new}", name)
    return name
