"""Chooses the files of a diffusers folder that belong to a model, and one of several kinds of weight files."""

import re
from collections.abc import Iterable
from pathlib import Path

# For each network's folder, the name of its weight files without the ending.
WEIGHT_FILES = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
FLAX_FILES = {
    "text_encoder": "flax_model.msgpack",
    "unet": "diffusion_flax_model.msgpack",
    "vae": "diffusion_flax_model.msgpack",
}
OWN_SETTINGS = "reversion_jax.json"  # settings that suit the model, see own_settings.py
_SMALL_FILES = re.compile(
    rf"{re.escape(OWN_SETTINGS)}|model_index\.json|scheduler/[^/]+\.json|tokenizer/[^/]+\.(json|txt)|({'|'.join(WEIGHT_FILES)})/config\.json"
)
_PICKLE = re.compile(r".*\.(bin|ckpt|pt|pth)")
_CONVERT = "use the model's safetensors files or, if you trust this file, convert it with diffusers' save_pretrained"


def weight_files(part: str, names: Iterable[str], where: object) -> list[str]:
    """Chooses the files that hold a network's weights. If these files have an index, the index comes first.

    part: the network. names: all file names in its folder. where: the folder's name for the error message.
    The choice is full-precision safetensors, else fp16 safetensors, else the msgpack of diffusers' former Flax classes.
    Pickles, and copies for further training ("non_ema"), are never chosen. Raises ValueError if there is no file that
    can be chosen.
    """
    stem, shard, names = WEIGHT_FILES[part], r"-\d{5}-of-\d{5}", sorted(names)
    kinds = [
        [rf"{stem}\.safetensors"],
        [rf"{stem}\.safetensors\.index\.json", rf"{stem}{shard}\.safetensors"],
        [rf"{stem}\.fp16\.safetensors"],
        # Before 2024, diffusers and transformers put "fp16" at another place in these names.
        [
            rf"{stem}\.safetensors\.(index\.fp16|fp16\.index)\.json",
            rf"{stem}(\.fp16{shard}|{shard}\.fp16)\.safetensors",
        ],
        [re.escape(FLAX_FILES[part])],
    ]
    for patterns in kinds:
        found = [[name for name in names if re.fullmatch(pattern, name)] for pattern in patterns]
        if found[0]:
            return [name for matches in found for name in matches]
    pickles = [name for name in names if _PICKLE.fullmatch(name)]
    raise ValueError(
        f"no {stem}.safetensors in {where}"
        + (f", only {pickles[0]}, a pickle, which can run code when it is read: {_CONVERT}" if pickles else "")
    )


def check_file(path: Path) -> None:
    """Raises ValueError if a path is not a file, or if its name does not end in .safetensors."""
    if not path.is_file():
        raise ValueError(f"no folder and no file at {path}")
    if path.suffix != ".safetensors":
        kind = (
            "a pickle, which can run code when it is read" if _PICKLE.fullmatch(path.name) else "not a safetensors file"
        )
        raise ValueError(f"{path} is {kind}: {_CONVERT}")


def snapshot_files(names: Iterable[str], where: str) -> list[str]:
    """Chooses the files of a hub repository that are needed to load its model.

    names: all file names in the repository. where: the repository's id for error messages. Raises ValueError if a
    network has no weights that can be loaded.
    """
    names = list(names)
    whole = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if whole and not any(name.startswith("unet/") for name in names):
        raise ValueError(
            f"{where} holds single-file checkpoints instead of a folder for each network: download one with "
            f'"hf download {where} {whole[0]}" and give its path'
        )
    wanted = [name for name in names if _SMALL_FILES.fullmatch(name)]
    for part in WEIGHT_FILES:
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        wanted += [f"{part}/{name}" for name in weight_files(part, inside, f"{where}/{part}")]
    return wanted
