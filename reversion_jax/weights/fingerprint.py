"""A hash that tells models apart, for runs to say which one they were trained on."""

import hashlib
from pathlib import Path

from reversion_jax.weights.layout import WEIGHT_FILES, weight_files

_BLOCKS, _BLOCK_BYTES = 64, 1 << 16


def fingerprint(model: Path) -> str:
    """16 hex digits of a model's folder or file: SHA-256 over each weight file's size and 64 blocks of 64 KiB.

    The blocks lie evenly over the file; a small file is read whole. Reading all of Stable Diffusion would take seconds,
    and fine-tuning changes every block.
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
