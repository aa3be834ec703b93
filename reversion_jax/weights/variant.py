"""Defines the user's choices for loading a model, and finds out what the UNet of a single file predicts."""

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from reversion_jax.runtime.errors import warn


@dataclasses.dataclass(frozen=True)
class Variant:
    """What the user chose to load, by the setting names in config.py. The defaults load the model without changes."""

    vae: str = ""  # another VAE: a folder, a .safetensors file, or a hub id; "" loads the model's own VAE
    ema: bool = False  # loads the running average of the UNet's weights, which some single files also contain
    prediction_type: str = ""  # "epsilon" or "v_prediction"; "" takes what the model's files say
    clip_skip: int = 0  # number of the text encoder's last layers to leave out

    @classmethod
    def of(cls, settings: Any) -> "Variant":
        """Returns the choices in a complete config."""
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})


def single_files_prediction(path: Path, names: Collection[str]) -> str:
    """Returns what the UNet of a single-file model predicts: "epsilon" or "v_prediction".

    If there is an A1111 .yaml file beside the model, this file decides. Without a .yaml file, a tensor named "v_pred"
    means "v_prediction". names: the file's tensor names. Raises ValueError if the .yaml file cannot be read.
    """
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        try:
            said = yaml.safe_load(beside.read_text(encoding="utf-8"))
            kind = said.get("model", {}).get("params", {}).get("parameterization", "eps")
        except (yaml.YAMLError, AttributeError, ValueError, RecursionError) as error:
            reason = re.sub(r"\s+", " ", str(error))
            raise ValueError(f"cannot read {beside}, which says what {path.name} predicts: {reason}") from error
        known = {"eps": "epsilon", "v": "v_prediction"}
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"{beside}: parameterization {kind!r} is not supported; use {' or '.join(known)}")
        return known[kind]
    if "ztsnr" in names:
        warn(f"{path} is made for a noise schedule that ends in pure noise (ztsnr); the usual one is used instead")
    return "v_prediction" if "v_pred" in names else "epsilon"
