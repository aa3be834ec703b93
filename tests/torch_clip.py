"""Computes the outputs of the tiny CLIP with transformers. Needs PyTorch."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import CLIPConfig, CLIPModel

from reversion_jax.models import clip_vision


def model(config: clip_vision.CLIPConfig) -> CLIPModel:
    """Returns a transformers.CLIPModel of a config, with random weights."""
    values = config.to_json()
    towers = {name: values[name] for name in ("text_config", "vision_config")}
    return CLIPModel(CLIPConfig(**towers, projection_dim=config.projection_dim))


def shapes(scratch: Path, config: clip_vision.CLIPConfig) -> dict[str, list[int]]:
    """Returns the names and shapes in the weight file that transformers writes."""
    model(config).save_pretrained(scratch)
    return {name: list(array.shape) for name, array in load_file(scratch / "model.safetensors").items()}


def outputs(folder: Path, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the features of the texts `ids` and of the pictures `pixels`."""
    theirs = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        text = theirs.get_text_features(torch.from_numpy(x["ids"]).long())
        image = theirs.get_image_features(torch.from_numpy(x["pixels"]))
    # transformers 5 returns an object that holds the features; earlier versions return the features themselves.
    found = {"text_features": text, "image_features": image}
    return {name: getattr(value, "pooler_output", value).numpy() for name, value in found.items()}
