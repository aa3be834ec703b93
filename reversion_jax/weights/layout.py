"""Which files of a diffusers folder hold a model: of several kinds of weights, one for each network."""

import re
from collections.abc import Iterable
from pathlib import Path

# Names without their endings, in folders of these names.
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
OWN_SETTINGS = "reversion_jax.json"  # what suits the model, see own_settings.py
_BESIDES = re.compile(
    rf"{re.escape(OWN_SETTINGS)}|model_index\.json|scheduler/[^/]+\.json|tokenizer/[^/]+\.(json|txt)|({'|'.join(WEIGHT_FILES)})/config\.json"
)
_PICKLE = re.compile(r".*\.(bin|ckpt|pt|pth)")
_CONVERT = "fetch the model's safetensors, or write them by diffusers' save_pretrained where you trust the file"


def weight_files(part: str, names: Iterable[str], where: object) -> list[str]:
    """Those of the file `names` in a network's folder that hold its weights; an index, if any, comes first.

    Full precision before fp16, safetensors before the msgpack of diffusers' former Flax classes, never pickles,
    nor copies for further training ("non_ema"). ValueError, naming the folder as `where`, if there are none.
    """
    stem, shard, names = WEIGHT_FILES[part], r"-\d{5}-of-\d{5}", sorted(names)
    kinds = [
        [rf"{stem}\.safetensors"],
        [rf"{stem}\.safetensors\.index\.json", rf"{stem}{shard}\.safetensors"],
        [rf"{stem}\.fp16\.safetensors"],
        # The other order is that of diffusers and transformers before 2024.
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
    """ValueError unless a path is that of a safetensors file, by its name."""
    if not path.is_file():
        raise ValueError(f"no folder and no file at {path}")
    if path.suffix != ".safetensors":
        kind = "a pickle, which can run code when it is read" if _PICKLE.fullmatch(path.name) else "no safetensors file"
        raise ValueError(f"{path} is {kind}: {_CONVERT}")


def snapshot_files(names: Iterable[str], where: str) -> list[str]:
    """Those of a repository's file `names` that a model is loaded from; ValueError if it has no usable weights."""
    names = list(names)
    whole = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if whole and not any(name.startswith("unet/") for name in names):
        raise ValueError(
            f"{where} has no folder of each network, but whole checkpoints: get one by "
            f'"hf download {where} {whole[0]}" and give its path'
        )
    wanted = [name for name in names if _BESIDES.fullmatch(name)]
    for part in WEIGHT_FILES:
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        wanted += [f"{part}/{name}" for name in weight_files(part, inside, f"{where}/{part}")]
    return wanted
