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
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from reversion_jax.inversion import prompts
from reversion_jax.runtime import files
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import hub, torch_file
from reversion_jax.weights.floats import FLOATS, all_finite

SUFFIXES = (".safetensors", ".pt", ".bin")  # of embedding files
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, **FLOATS}


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


def find(name: str) -> list[epath.Path]:
    """The embedding files that a name means: a file, all those in a folder, or that of a hub id such as owner/name.

    ValueError if there are none; a file need not be there.
    """
    path = files.place(name)
    if path.is_dir():
        inside = sorted(child for child in path.iterdir() if child.suffix in SUFFIXES)
        if not inside:
            raise ValueError(f"{path} holds no embedding: want files in {', '.join(SUFFIXES)}")
        # ReVersion's copy of a word that lies there under its own name as well
        named = [child for child in inside if child.name != "learned_embeds.bin"]
        return named or inside
    hub_id = hub.parse_id(name)
    if path.exists() or not hub_id or path.suffix in SUFFIXES:
        return [path]

    def choose(present: list[str]) -> list[str]:
        own = [n for suffix in SUFFIXES for n in sorted(present) if "/" not in n and n.endswith(suffix)]
        usual = [n for n in own if n.startswith("learned_embeds")] or own
        if not usual:
            raise ValueError(f"{name} holds no embedding: want a file in {', '.join(SUFFIXES)}")
        return usual[:1]

    folder = epath.Path(hub.fetch(*hub_id, choose))
    (found,) = choose([child.name for child in folder.iterdir()])
    return [folder / found]


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The tokens of an embedding file, each float32 [S, D]: what this project, diffusers, ReVersion and A1111 write.

    .safetensors of any float type, or PyTorch's .pt and .bin, whose pickles are read without running their code.
    A1111's and OneTrainer's files name no token: theirs is the embedding's name, or the file's. ValueError if it is
    anything else, which it says by name, or holds NaN; OSError.
    """
    path = epath.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one of the embedding files in it")
    if not files.is_file(path):
        raise FileNotFoundError(f"no embedding at {path}")
    with path.open("rb") as file:
        is_pointer = file.read(64).startswith(b"version https://git-lfs")
    if is_pointer:
        raise ValueError(f"{path} is a Git LFS pointer, not the file it stands for: fetch it by git lfs pull")
    tokens: object = _read_safetensors(path) if path.suffix == ".safetensors" else torch_file.read(path)
    if isinstance(tokens, dict):
        _refuse_others(path, tokens)
        tokens = _named(path, tokens)
    if not isinstance(tokens, dict) or not tokens:
        raise ValueError(f"{path} is not an embedding: expected vectors by the names of their tokens")
    for token, array in tokens.items():
        if not isinstance(token, str) or not token or token != token.strip():
            raise ValueError(f"{path} names a token {token!r}: give it a name that prompts can have")
        if not isinstance(array, np.ndarray) or array.ndim not in (1, 2):
            said = f"has shape {array.shape}" if isinstance(array, np.ndarray) else f"is a {type(array).__name__}"
            raise ValueError(f"{path} is not an embedding: {token} {said}, expected [S, D]")
    found = {token: np.atleast_2d(array.astype(np.float32)) for token, array in tokens.items()}
    for token, rows in found.items():
        if not rows.size:
            raise ValueError(f"{path}: {token} is empty, of shape {list(rows.shape)}")
        if not all_finite(rows):
            raise ValueError(f"{path}: {token} holds NaN or infinity, so every picture would be black: train it again")
    return found


def check_width(tokens: Mapping[str, np.ndarray], width: int, model: str) -> None:
    """ValueError if rows [S, D] were made for a model whose token table is not `width` numbers wide."""
    for token, rows in tokens.items():
        if rows.shape[1] != width:
            wanted = f"{model} has {width}"
            raise ValueError(f"{token} is {rows.shape[1]} numbers wide, made for another model: {wanted}")


def _read_safetensors(path: epath.Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, in the order of their names: the file's own order changes from call to call."""
    try:
        found = {}
        for name, tensor in deserialize(path.read_bytes()):
            dtype = _FLOATS.get(tensor["dtype"])
            if dtype is None:
                raise ValueError(f"{path}: {name} is stored as {tensor['dtype']}, not as floats")
            found[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
        return dict(sorted(found.items()))
    except SafetensorError as error:
        raise ValueError(f"cannot read {path}: it is damaged, or no .safetensors file ({error})") from error


def _refuse_others(path: epath.Path, tensors: Mapping[Any, Any]) -> None:
    """ValueError, by its right name, for a file that is taken for an embedding and is something else."""
    names = [str(name) for name in tensors]
    if isinstance(tensors.get("state_dict"), Mapping):
        names += [str(name) for name in tensors["state_dict"]]
    kinds = {
        "a LoRA: it changes the networks' weights": r".*(lora_(up|down|A|B|unet|te)|\.lora\.|hada_w|lokr_w).*",
        "a whole Stable Diffusion checkpoint: give it by --model": r"(model\.diffusion_model|cond_stage_model)\..*",
        "a VAE: give it by --vae": r"(first_stage_model\.)?(encoder|decoder|quant_conv|post_quant_conv)\..*",
        "a hypernetwork": r"(768|320|640|1280)",
        "an embedding for Stable Diffusion XL": r"clip_[gl]",
        "a network's weights": r".*\.(weight|bias)",
    }
    for kind, pattern in kinds.items():
        if any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(f"{path} is {kind}, and no embedding of Stable Diffusion 1.x")


def _named(path: epath.Path, tensors: dict[Any, Any]) -> dict[Any, Any]:
    """The tensors by their tokens' names, where the file's layout names them otherwise."""
    if "string_to_param" in tensors:  # A1111's .pt
        vectors = tensors["string_to_param"]
        vector = vectors.get("*", next(iter(vectors.values()), None)) if isinstance(vectors, dict) else vectors
        return {str(tensors.get("name") or path.stem): vector}
    for name in ("emb_params", "emp_params"):  # the .safetensors of A1111 and kohya; OneTrainer's
        if name in tensors:
            if others := sorted(set(map(str, tensors)) - {name}):
                warn(f"{path}: only {name} is used; left out {', '.join(others)}")
            return {path.stem: tensors[name]}
    return tensors


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
