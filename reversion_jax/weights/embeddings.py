"""Learned rows as files that other tools load, one token a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
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
# A folder of its own: beside the others, every tool would take these files for further words.
ONETRAINER = "onetrainer"
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, **FLOATS}


def write(
    words: Mapping[str, Any], relation: str, folder: epath.PathLike, *, onetrainer: bool = False
) -> list[epath.Path]:
    """Writes the words of a run for diffusers, A1111, ComfyUI and ReVersion; returns the files, <R>'s first.

    words: rows [S, D] of <R>, and of <R-inv> if it was learned. Files, all float32, one relation a folder:
    `<relation>.safetensors` {"<R>": [S, D]}, `<relation>-inv.safetensors` {"<R-inv>": [S, D]}, and ReVersion's
    `learned_embeds.bin` {"<R>": [D], or [S, D] if S > 1}. Existing files are replaced. ValueError if the rows have
    another shape or `relation` cannot name a file; OSError.

    onetrainer: writes the first two for OneTrainer as well, into the folder onetrainer, as {"emp_params": [S, D]}.
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
    contents["learned_embeds.bin"] = torch_file.pack(prompts.RELATION, forward[0] if len(forward) == 1 else forward)
    if onetrainer:
        for token, stem in ((prompts.RELATION, relation), (prompts.INVERSE, f"{relation}-inv")):
            if token in rows:
                contents[f"{ONETRAINER}/{stem}.safetensors"] = save({"emp_params": rows[token]})
    folder = epath.Path(folder)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(folder / name, content)
    return [folder / name for name in contents]


def find(name: str) -> list[epath.Path]:
    """The embedding files that a name means: a file, all those in a folder, or those of a hub id.

    A hub id is owner/name, of which "@revision" picks a branch, tag or commit, and "/file" one of its files:
    owner/name/hug.safetensors, owner/name@main/hug.safetensors. ValueError if there are none; a file need not be there.
    """
    path = files.place(name)
    if path.is_dir():
        inside = sorted(child for child in path.iterdir() if child.suffix in SUFFIXES)
        if not inside:
            raise ValueError(f"{path} holds no embedding: want files in {', '.join(SUFFIXES)}")
        # ReVersion's copy of a word that lies there under its own name as well
        named = [child for child in inside if child.name != "learned_embeds.bin"]
        return named or inside
    where = None if path.exists() else _on_hub(name)
    if not where:
        return [path]
    repository, revision, file = where

    def choose(present: list[str]) -> list[str]:
        if not file:
            return _words_of(present, name)
        if file not in present:
            raise ValueError(f"{repository} has no file {file}")
        return [file]

    try:
        folder = hub.fetch(repository, revision, choose)
    except ValueError as error:
        raise ValueError(f"no file {name}, and {error}" if file else error) from error
    # The folder may hold what was fetched earlier.
    names = [child.relative_to(folder).as_posix() for child in folder.rglob("*") if child.suffix in SUFFIXES]
    return [epath.Path(folder / chosen) for chosen in choose(names)]


def _on_hub(name: str) -> tuple[str, str | None, str] | None:
    """Repository, revision and file ("" for none) of what may lie on the hub; None for a path of this machine."""
    parts = name.split("/", 2)
    is_file = Path(name).suffix in SUFFIXES
    # A folder of that name is here: the path into it was mistyped, which the hub need not hear of.
    if is_file and (len(parts) < 3 or Path(parts[0]).exists()):
        return None
    hub_id = hub.parse_id("/".join(parts[:2]) if is_file else name)
    return (*hub_id, parts[2] if is_file else "") if hub_id else None


def _words_of(present: Sequence[str], name: str) -> list[str]:
    """Those of a repository's files, `present`, that hold its words: as `write` leaves them, or one as others do."""
    own = [n for suffix in SUFFIXES for n in sorted(present) if "/" not in n and n.endswith(suffix)]
    if not own:
        raise ValueError(f"{name} holds no embedding: want a file in {', '.join(SUFFIXES)}")
    inverse = {n: n.removesuffix(".safetensors") + "-inv.safetensors" for n in own}
    ours = [n for n in own if inverse[n] in own]
    if len(ours) > 1:
        raise ValueError(f"{name} holds {len(ours)} relations: give a file of one, such as {name}/{ours[0]}")
    return [ours[0], inverse[ours[0]]] if ours else ([n for n in own if n.startswith("learned_embeds")] or own)[:1]


def initial_words(initialiser: str) -> dict[str, np.ndarray] | None:
    """The words that training goes on from, <R> among them: those of `find`; None for a word of the vocabulary.

    A name with a slash or an ending of SUFFIXES is no word. ValueError, OSError.
    """
    if "/" not in initialiser and Path(initialiser).suffix not in SUFFIXES:
        return None
    found: dict[str, np.ndarray] = {}
    for path in find(initialiser):
        own = read(path)
        if twice := sorted(own.keys() & found.keys()):
            raise ValueError(f"{initialiser} holds {twice[0]} twice, also in {path.name}: give one of its files")
        found |= own
    if prompts.RELATION in found:
        return found
    if len(found) > 1:
        raise ValueError(
            f"{initialiser} holds {', '.join(found)}: give a file with one word, or with {prompts.RELATION}"
        )
    return {prompts.RELATION: next(iter(found.values()))}


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
