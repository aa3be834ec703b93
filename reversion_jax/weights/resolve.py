"""Finds a model by what a user calls it: "miniature", a folder, or an id on the Hugging Face hub."""

import re
from pathlib import Path

from reversion_jax.weights.folder import WEIGHT_FILES

_MINIATURE = Path(__file__).parents[1] / "miniature" / "snapshot"
# Full precision, and not the copies for further training ("non_ema").
_PATTERNS = [
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    *(f"{part}/config.json" for part in WEIGHT_FILES),
    *(
        f"{part}/{stem}{ending}"
        for part, stem in WEIGHT_FILES.items()
        for ending in (".safetensors", ".safetensors.index.json", "-?????-of-?????.safetensors")
    ),
]


def resolve(model: str) -> Path:
    """The local folder of a model, downloaded first if need be.

    model: "miniature" (ships with this package), a folder in diffusers' layout, or a hub id such as
    "stable-diffusion-v1-5/stable-diffusion-v1-5". ValueError, saying what to do, if it cannot be had.
    """
    if model == "miniature":
        if not _MINIATURE.is_dir():
            raise ValueError(
                "the miniature's weights are not installed: run python -m reversion_jax.miniature.pretrain"
            )
        return _MINIATURE
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise ValueError(f'{model!r} is neither a folder, nor "miniature", nor a hub id such as owner/name')
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_PATTERNS))
    except Exception as error:  # the hub's errors, its HTTP client's and the disk's have no common ancestor
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"cannot get {model!r} from the Hugging Face hub ({reason}): on a machine with internet run "
            f'"hf download {model}" (after "hf auth login" if it is gated) and copy the folder here, '
            "then give its path"
        ) from error
