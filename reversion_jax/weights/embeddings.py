"""Learned rows as files that other tools load, one token a file; PyTorch's format without PyTorch."""

import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from reversion_jax.inversion import prompts
from reversion_jax.runtime import files
from reversion_jax.weights import torch_file


def write(words: Mapping[str, Any], relation: str, folder: epath.PathLike) -> list[epath.Path]:
    """Writes the words of a run for diffusers, A1111, ComfyUI and ReVersion; returns the files, <R>'s first.

    words: rows [S, D] of <R>, and of <R-inv> if it was learned. Files, all float32, one relation a folder:
    `<relation>.safetensors` {"<R>": [S, D]}, `<relation>-inv.safetensors` {"<R-inv>": [S, D]}, and ReVersion's
    `learned_embeds.bin` {"<R>": [D], or [S, D] if S > 1}. Existing files are replaced. ValueError if the rows have
    another shape or `relation` cannot name a file; OSError.
    """
    rows = {token: np.ascontiguousarray(own, "<f4") for token, own in words.items()}
    if prompts.RELATION not in rows or set(rows) - set(prompts.PLACEHOLDERS):
        raise ValueError(f"words {', '.join(rows)}: need {prompts.RELATION}, and {prompts.INVERSE} if it was learned")
    if any(own.ndim != 2 or own.shape != rows[prompts.RELATION].shape or not len(own) for own in rows.values()):
        raise ValueError(
            f"rows of shape {', '.join(str(own.shape) for own in rows.values())}: need [S, D], all the same"
        )
    # ComfyUI cuts names at "<" and "["; a dot in front hides a file, a dash makes it look like a flag.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", relation):
        raise ValueError(f"relation {relation!r} cannot name files: use A-Z a-z 0-9 _ and, but in front, . -")
    forward = rows[prompts.RELATION]
    contents = {f"{relation}.safetensors": save({prompts.RELATION: forward})}
    if prompts.INVERSE in rows:
        contents[f"{relation}-inv.safetensors"] = save({prompts.INVERSE: rows[prompts.INVERSE]})
    # Without the first axis, as ReVersion's inference assigns it to one row of the table.
    contents["learned_embeds.bin"] = _torch_zip(prompts.RELATION, forward[0] if len(forward) == 1 else forward)
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        files.write(folder / name, content)
    return [folder / name for name in contents]


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The tokens of an embedding file, each float32 [S, D]: what this project, diffusers, ReVersion and A1111 write.

    .safetensors, or PyTorch's .pt and .bin, whose pickles are read without running their code. A1111's files name
    no token: theirs is the embedding's name, or the file's. ValueError if it is anything else; OSError.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no embedding at {path}")
    tokens: object
    if path.suffix == ".safetensors":
        try:
            tokens = dict(sorted(load(path.read_bytes()).items()))  # whose own order changes from call to call
        except (SafetensorError, AttributeError, TypeError) as error:  # the latter for types that NumPy lacks
            raise ValueError(f"cannot read {path}: {error}") from error
    else:
        tokens = torch_file.read(path)
        if isinstance(tokens, dict) and "string_to_param" in tokens:
            vectors = tokens["string_to_param"]
            tokens = {str(tokens.get("name") or path.stem): vectors.get("*") if isinstance(vectors, dict) else vectors}
    if isinstance(tokens, dict) and list(tokens) == ["emb_params"]:  # A1111's and kohya's .safetensors
        tokens = {path.stem: tokens["emb_params"]}
    if not isinstance(tokens, dict) or not tokens:
        raise ValueError(f"{path} is not an embedding: expected vectors by the names of their tokens")
    for token, array in tokens.items():
        if not isinstance(token, str) or not token or token != token.strip():
            raise ValueError(f"{path} names a token {token!r}: give it a name that prompts can have")
        if not isinstance(array, np.ndarray) or array.ndim not in (1, 2):
            said = f"has shape {array.shape}" if isinstance(array, np.ndarray) else f"is a {type(array).__name__}"
            raise ValueError(f"{path} is not an embedding: {token} {said}, expected [S, D]")
    return {token: np.atleast_2d(array.astype(np.float32)) for token, array in tokens.items()}


def _torch_zip(token: str, array: np.ndarray) -> bytes:
    """What `torch.load` reads as {token: tensor}, as PyTorch 1.x wrote it.

    array: float32, of one or two axes.
    """
    # ReVersion's own file is a zip of these three members. PyTorch takes it, old and new, weights_only too,
    # and so does A1111's scanner, which refuses the members that torch.save has added since. The older
    # form, some pickles in a row, opens no further tool, and diffusers could not map it into memory.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (
            ("data.pkl", _pickle(token, array.shape)),
            ("data/0", array.tobytes()),
            ("version", b"3\n"),
        ):
            member = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: equal rows give equal files
            # Contents start at multiples of 64 bytes, as torch.save's do: mapped floats have to be aligned.
            padding = -(buffer.tell() + 30 + len(member.filename) + 4) % 64
            member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(member, content)
    return buffer.getvalue()


def _pickle(token: str, shape: tuple[int, ...]) -> bytes:
    """The pickle of {token: tensor of `shape` [D] or [S, D], kept in data/0}: torch.save's very bytes."""
    strides = (shape[-1], 1)[-len(shape) :]
    return b"".join(
        (
            b"\x80\x02}q\x00" + _text(token, 1),
            b"ctorch._utils\n_rebuild_tensor_v2\nq\x02(",
            # The persistent id ("storage", torch.FloatStorage, "0", "cpu", how many numbers).
            b"(" + _text("storage", 3) + b"ctorch\nFloatStorage\nq\x04" + _text("0", 5) + _text("cpu", 6),
            _integer(math.prod(shape)) + b"tq\x07Q",
            # Offset, shape, strides, no gradient wanted, no hooks.
            _integer(0) + _integers(shape) + b"q\x08" + _integers(strides) + b"q\x09",
            b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0b",
            b"tq\x0cRq\x0ds.",
        )
    )


def _text(text: str, memo: int) -> bytes:
    return struct.pack("<cI", b"X", len(text.encode())) + text.encode() + b"q" + bytes([memo])


def _integers(values: tuple[int, ...]) -> bytes:
    """A tuple of one or two."""
    return b"".join(map(_integer, values)) + {1: b"\x85", 2: b"\x86"}[len(values)]


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    return struct.pack("<cH", b"M", value) if value < 1 << 16 else struct.pack("<ci", b"J", value)
