"""Recognises other families of models that resemble Stable Diffusion 1.x, so that an error can name them."""

from collections.abc import Collection
from pathlib import Path

from reversion_jax.weights.stored import read_json

_XL, _V2 = "Stable Diffusion XL", "Stable Diffusion 2.x"


def check_folder(folder: Path) -> None:
    """Raises ValueError if the configs in a diffusers folder belong to another family of models."""
    index = folder / "model_index.json"
    pipeline = str(read_json(index).get("_class_name", "")) if index.is_file() else ""
    unet = read_json(folder / "unet" / "config.json")
    if "XL" in pipeline or (folder / "text_encoder_2").is_dir() or unet.get("cross_attention_dim") == 2048:
        _refuse(folder, _XL)
    text = folder / "text_encoder" / "config.json"
    if unet.get("use_linear_projection") or (text.is_file() and read_json(text).get("hidden_size") == 1024):
        _refuse(folder, _V2)


def check_single_file(path: Path, names: Collection[str], *, needs_vae: bool = True) -> None:
    """Raises ValueError if a single file's tensor names belong to another family, or if a network is missing.

    names: the names of all tensors in the file. needs_vae: whether the file must contain a VAE.
    """
    for prefix, family in (("conditioner.embedders.", _XL), ("cond_stage_model.model.", _V2)):
        if any(name.startswith(prefix) for name in names):
            _refuse(path, family)
    for prefix in ("model.diffusion_model.", "cond_stage_model.", "first_stage_model."):
        if not any(name.startswith(prefix) for name in names) and (needs_vae or prefix != "first_stage_model."):
            remedy = "; give a VAE by --vae, in training --config.vae" if prefix == "first_stage_model." else ""
            raise ValueError(
                f"{path} is not a complete Stable Diffusion 1.x checkpoint: no tensor's name starts with {prefix} "
                f"(the first is {min(names, default='missing')}){remedy}"
            )


def _refuse(path: Path, family: str) -> None:
    raise ValueError(
        f"{path} is a {family} model: only Stable Diffusion 1.x can be loaded, "
        "such as stable-diffusion-v1-5/stable-diffusion-v1-5"
    )
