"""The tiny CLIP as transformers computes it. Needs PyTorch."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import CLIPConfig, CLIPModel

from reversion_jax.models import clip_vision


def model(config: clip_vision.CLIPConfig) -> CLIPModel:
    """transformers' CLIPModel of a config, with weights of its own."""
    values = config.to_json()
    towers = {name: values[name] for name in ("text_config", "vision_config")}
    return CLIPModel(CLIPConfig(**towers, projection_dim=config.projection_dim))


def shapes(scratch: Path, config: clip_vision.CLIPConfig) -> dict[str, list[int]]:
    """Names and shapes of the file that transformers writes."""
    model(config).save_pretrained(scratch)
    return {name: list(array.shape) for name, array in load_file(scratch / "model.safetensors").items()}


def outputs(folder: Path, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features of ids and pixels."""
    theirs = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        text = theirs.get_text_features(torch.from_numpy(x["ids"]).long())
        image = theirs.get_image_features(torch.from_numpy(x["pixels"]))
    # transformers 5 returns them among others, earlier ones alone.
    found = {"text_features": text, "image_features": image}
    return {name: getattr(value, "pooler_output", value).numpy() for name, value in found.items()}
