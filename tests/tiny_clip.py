"""The config, folder and inputs of a tiny CLIP that has every kind of layer of ViT-L/14."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tiny
from safetensors.numpy import save_file

from reversion_jax.models.clip import CLIPTextConfig
from reversion_jax.models.clip_vision import CLIPConfig, CLIPVisionConfig

RECORDED = Path(__file__).parent / "recorded"
CONFIG = CLIPConfig(
    text=CLIPTextConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=tiny.LENGTH,
    ),
    vision=CLIPVisionConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    ),
    projection_dim=24,
)
# CLIP has two rules for the end of a text and two activation functions. Each rule and each function is in one variant.
VARIANTS = {
    "openai": CONFIG,
    "laion": dataclasses.replace(
        CONFIG,
        text=dataclasses.replace(CONFIG.text, eos_token_id=590, hidden_act="gelu"),
        vision=dataclasses.replace(CONFIG.vision, hidden_act="gelu"),
    ),
}


def write_folder(folder: Path, weights: dict[str, np.ndarray], config: CLIPConfig = CONFIG) -> Path:
    """Writes the files that transformers.CLIPModel and CLIPProcessor would write."""
    tiny.write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    size = config.vision.image_size
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": size}, "crop_size": size}))
    return folder


def inputs(seed: int) -> dict[str, np.ndarray]:
    """Returns the inputs of the comparisons; pixels are NCHW. CLIP's two rules for the end differ on these texts."""
    ids = np.random.PCG64(seed).random_raw(3 * tiny.LENGTH).reshape(3, tiny.LENGTH) % 589
    ids[:, [3, 6]], ids[:, [8, 10]] = 590, 599
    return {"ids": ids.astype(np.int32), "pixels": tiny.noise(seed + 1, (3, 3, 32, 32))}
