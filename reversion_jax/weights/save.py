"""Writes a model as a folder that diffusers loads."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from numpy.typing import DTypeLike
from safetensors.numpy import save_file

from reversion_jax.models.clip import CLIPTextConfig
from reversion_jax.models.unet import UNetConfig
from reversion_jax.models.vae import VAEConfig
from reversion_jax.weights import names
from reversion_jax.weights.folder import StableDiffusion, parameter_shapes
from reversion_jax.weights.layout import WEIGHT_FILES

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


def save(folder: str | Path, model: StableDiffusion, dtype: DTypeLike = np.float16) -> None:
    """Writes a model as a folder that `load` and `diffusers.StableDiffusionPipeline.from_pretrained` can read.

    dtype: the type of UNet and VAE in the files. The text encoder is always written as float32: transformers would
    compute in the type of its file, while diffusers' networks compute in float32. Raises ValueError, before anything is
    written, if the names and shapes in a parameter tree differ from those that its config requires.
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
        # diffusers and transformers do not load a file without this metadata.
        save_file(weights, folder / part / f"{WEIGHT_FILES[part]}.safetensors", {"format": "pt"})
        _write_json(folder / part / "config.json", config.to_json())
    scheduler = model.schedule.to_json() | model.own_sampler.to_json()
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(folder / "model_index.json", _MODEL_INDEX | {"scheduler": ["diffusers", scheduler["_class_name"]]})
    if (folder / "tokenizer").resolve() != Path(model.tokenizer_folder).resolve():
        shutil.copytree(model.tokenizer_folder, folder / "tokenizer", dirs_exist_ok=True)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
