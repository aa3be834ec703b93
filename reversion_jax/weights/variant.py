"""What of a model is loaded where its files leave a choice, and what they say of it."""

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from reversion_jax.runtime.errors import warn


@dataclasses.dataclass(frozen=True)
class Variant:
    """A user's choice, by the names of config.py; the defaults are the model's own."""

    vae: str = ""  # another VAE: a folder, a .safetensors file, or a hub id
    ema: bool = False  # the running average of the weights, where a single file keeps it beside them
    prediction_type: str = ""
    clip_skip: int = 0  # last layers of the text encoder that are left out

    @classmethod
    def of(cls, settings: Any) -> "Variant":
        """A settled config's."""
        return cls(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(cls)})


def single_files_prediction(path: Path, names: Collection[str]) -> str:
    """What a single-file model predicts: by A1111's .yaml beside it, by a mark among its tensors, else "epsilon".

    ValueError if the .yaml cannot be read.
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
            raise ValueError(f"{beside}: parameterization {kind!r} is not supported (only {', '.join(known)})")
        return known[kind]
    if "ztsnr" in names:
        warn(f"{path} is marked for a schedule that ends in pure noise (ztsnr), which is not supported")
    return "v_prediction" if "v_pred" in names else "epsilon"
