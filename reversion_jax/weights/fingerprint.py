"""Computes a hash that identifies a model's weights, so that a run can record the model that it was trained on."""

import hashlib
from pathlib import Path

from reversion_jax.weights.layout import WEIGHT_FILES, weight_files

_BLOCKS, _BLOCK_BYTES = 64, 1 << 16


def fingerprint(model: Path) -> str:
    """Returns 16 hexadecimal digits that identify the weights in a model's folder or single file.

    The digits are the start of a SHA-256 over the size and content of each weight file. Of a file above 4 MiB, only 64
    blocks of 64 KiB, spread evenly over the file, are hashed: hashing all of Stable Diffusion would take seconds, and
    fine-tuning changes every block.

    Raises ValueError if a network's folder holds no weights, and OSError if a file cannot be read.
    """
    if model.is_file():
        paths = [model]
    else:
        names = {part: weight_files(part, [p.name for p in (model / part).iterdir()], model) for part in WEIGHT_FILES}
        paths = [model / part / name for part, found in names.items() for name in found]
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{size};".encode())
        if size <= _BLOCKS * _BLOCK_BYTES:
            digest.update(path.read_bytes())
            continue
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
