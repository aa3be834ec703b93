"""Writes embedding files with learned rows, one token per file, for other tools; reads the files of these tools."""

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

SUFFIXES = (".safetensors", ".pt", ".bin")  # the endings of embedding files
# OneTrainer's files go into a subfolder. Otherwise the other tools would load these files as additional words.
ONETRAINER = "onetrainer"
# The float types of .safetensors files, by their names in these files.
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, **FLOATS}


def write(
    words: Mapping[str, Any], relation: str, folder: epath.PathLike, *, onetrainer: bool = False
) -> list[epath.Path]:
    """Writes a run's words for diffusers, A1111, ComfyUI and ReVersion; returns the files' paths, <R>'s first.

    words: rows [S, D] of <R>, and of <R-inv> if it was learned. relation: the name of the files. Use one folder per
    relation, because the name learned_embeds.bin is the same for all relations. All files are float32. Existing files
    are replaced.

        <relation>.safetensors       {"<R>": [S, D]}
        <relation>-inv.safetensors   {"<R-inv>": [S, D]}
        learned_embeds.bin           {"<R>": [D], or [S, D] if S > 1}, ReVersion's format

    onetrainer: also writes each word for OneTrainer, into the subfolder onetrainer, as {"emp_params": [S, D]}.
    Raises ValueError if rows have another shape or `relation` cannot name a file, OSError if writing fails.
    """
    rows = {token: np.ascontiguousarray(own, "<f4") for token, own in words.items()}
    if prompts.RELATION not in rows or set(rows) - set(prompts.PLACEHOLDERS):
        raise ValueError(f"words {', '.join(rows)}: need {prompts.RELATION}, and optionally {prompts.INVERSE}")
    if any(own.ndim != 2 or own.shape != rows[prompts.RELATION].shape or not len(own) for own in rows.values()):
        raise ValueError(
            f"rows have shapes {', '.join(str(own.shape) for own in rows.values())}: need [S, D], equal for all words"
        )
    # ComfyUI cuts names at "<" and "[". A leading dot hides a file, and a leading dash makes its name look like a flag.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", relation):
        raise ValueError(f"relation {relation!r} cannot name files: use A-Z a-z 0-9 _ . - and begin without . or -")
    forward = rows[prompts.RELATION]
    contents = {f"{relation}.safetensors": save({prompts.RELATION: forward})}
    if prompts.INVERSE in rows:
        contents[f"{relation}-inv.safetensors"] = save({prompts.INVERSE: rows[prompts.INVERSE]})
    # A single row is stored without the first axis, because ReVersion's inference assigns it to one row of its table.
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
    """Returns the embedding files that `name` means: a file, all files in a folder, or files on the hub.

    A name on the hub is owner/name, optionally with "@revision" (a branch, tag or commit) and "/file" (one of its
    files): owner/name/hug.safetensors, owner/name@main/hug.safetensors. The path of a local file is returned even if
    the file does not exist. Raises ValueError if a folder or repository holds no embedding files.
    """
    path = files.place(name)
    if path.is_dir():
        inside = sorted(child for child in path.iterdir() if child.suffix in SUFFIXES)
        if not inside:
            raise ValueError(f"{path} holds no embedding: give a folder with a file that ends in {', '.join(SUFFIXES)}")
        # learned_embeds.bin is ReVersion's copy of a word that a file with the relation's name also contains.
        named = [child for child in inside if child.name != "learned_embeds.bin"]
        return named or inside
    where = None if path.exists() else _on_hub(name)
    if not where:
        return [path]
    repository, revision, file = where

    def choose(present: list[str]) -> list[str]:
        if not file:
            return _choose_embeddings(present, name)
        if file not in present:
            raise ValueError(f"{repository} has no file {file}")
        return [file]

    try:
        folder = hub.fetch(repository, revision, choose)
    except ValueError as error:
        raise ValueError(f"no file {name}, and {error}" if file else error) from error
    # The folder may also hold files from earlier downloads, so choose again among the files that are there.
    names = [child.relative_to(folder).as_posix() for child in folder.rglob("*") if child.suffix in SUFFIXES]
    return [epath.Path(folder / chosen) for chosen in choose(names)]


def _on_hub(name: str) -> tuple[str, str | None, str] | None:
    """Returns repository, revision and file ("" for no file) of a name on the hub; None for a local path."""
    parts = name.split("/", 2)
    is_file = Path(name).suffix in SUFFIXES
    # If the first part is a local folder, the name is a mistyped local path, and the hub must not be asked for it.
    if is_file and (len(parts) < 3 or Path(parts[0]).exists()):
        return None
    hub_id = hub.parse_id("/".join(parts[:2]) if is_file else name)
    return (*hub_id, parts[2] if is_file else "") if hub_id else None


def _choose_embeddings(present: Sequence[str], name: str) -> list[str]:
    """Chooses the embedding files to read from a repository.

    These are the files of <R> and <R-inv> that `write` wrote or, if there are no such files, one file of another tool.
    """
    own = [n for suffix in SUFFIXES for n in sorted(present) if "/" not in n and n.endswith(suffix)]
    if not own:
        raise ValueError(f"{name} holds no embedding: it has no file that ends in {', '.join(SUFFIXES)}")
    inverse = {n: n.removesuffix(".safetensors") + "-inv.safetensors" for n in own}
    ours = [n for n in own if inverse[n] in own]
    if len(ours) > 1:
        raise ValueError(f"{name} holds {len(ours)} relations: name the file of one, such as {name}/{ours[0]}")
    return [ours[0], inverse[ours[0]]] if ours else ([n for n in own if n.startswith("learned_embeds")] or own)[:1]


def initial_words(initialiser: str) -> dict[str, np.ndarray] | None:
    """Returns the words that training starts from, among them <R>; None if `initialiser` is an ordinary word.

    An `initialiser` with a slash, or with an ending from SUFFIXES, names embedding files, see `find`. Raises ValueError
    if the files are no embeddings or it is unclear which word is <R>, OSError if a file cannot be read.
    """
    if "/" not in initialiser and Path(initialiser).suffix not in SUFFIXES:
        return None
    found: dict[str, np.ndarray] = {}
    for path in find(initialiser):
        own = read(path)
        if twice := sorted(own.keys() & found.keys()):
            raise ValueError(f"{initialiser} holds {twice[0]} twice, also in {path.name}: name one of its files")
        found |= own
    if prompts.RELATION in found:
        return found
    if len(found) > 1:
        raise ValueError(
            f"{initialiser} holds {', '.join(found)}: give a file that holds one word, or that holds {prompts.RELATION}"
        )
    return {prompts.RELATION: next(iter(found.values()))}


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads an embedding file of this or another tool; returns the rows of each token, float32 [S, D].

    The file is .safetensors of any float type, or PyTorch's .pt or .bin, whose pickles are read without running their
    code. The files of A1111 and OneTrainer name no token; their token is the embedding's name, or else the file's name.
    Raises ValueError if the file holds NaN or infinity, or is not an embedding; if the file is of another known kind,
    such as a LoRA, the message names the kind. Raises OSError if the file cannot be read.
    """
    path = epath.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give one of the embedding files in it")
    if not files.is_file(path):
        raise FileNotFoundError(f"no embedding at {path}")
    with path.open("rb") as file:
        is_pointer = file.read(64).startswith(b"version https://git-lfs")
    if is_pointer:
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself: fetch the file with git lfs pull")
    tokens: object = _read_safetensors(path) if path.suffix == ".safetensors" else torch_file.read(path)
    if isinstance(tokens, dict):
        _refuse_others(path, tokens)
        tokens = _named(path, tokens)
    if not isinstance(tokens, dict) or not tokens:
        raise ValueError(f"{path} is not an embedding: expected vectors under the names of their tokens")
    for token, array in tokens.items():
        if not isinstance(token, str) or not token or token != token.strip():
            raise ValueError(f"{path} names a token {token!r}, which no prompt can contain: give it another name")
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
    """Raises ValueError if a token's rows [S, D] do not fit the token table of `model`, in which D is `width`."""
    for token, rows in tokens.items():
        if rows.shape[1] != width:
            wanted = f"{model} has {width}"
            raise ValueError(f"{token} has {rows.shape[1]} numbers per row and was made for another model: {wanted}")


def _read_safetensors(path: epath.Path) -> dict[str, np.ndarray]:
    """Returns a file's tensors, sorted by name: safetensors returns tensors in an order that changes between calls."""
    try:
        found = {}
        for name, tensor in deserialize(path.read_bytes()):
            dtype = _FLOATS.get(tensor["dtype"])
            if dtype is None:
                raise ValueError(f"{path}: {name} is stored as {tensor['dtype']}, but only float types can be read")
            found[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
        return dict(sorted(found.items()))
    except SafetensorError as error:
        raise ValueError(f"cannot read {path}: it is damaged, or not a .safetensors file ({error})") from error


def _refuse_others(path: epath.Path, tensors: Mapping[Any, Any]) -> None:
    """Raises ValueError if the tensors belong to another kind of file; the message names the kind."""
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
            raise ValueError(f"{path} is not an embedding for Stable Diffusion 1.x but {kind}")


def _named(path: epath.Path, tensors: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the tensors by their tokens' names, also for file formats that store these names elsewhere."""
    if "string_to_param" in tensors:  # A1111's .pt
        vectors = tensors["string_to_param"]
        vector = vectors.get("*", next(iter(vectors.values()), None)) if isinstance(vectors, dict) else vectors
        return {str(tensors.get("name") or path.stem): vector}
    for name in ("emb_params", "emp_params"):  # .safetensors files of A1111 and kohya, and of OneTrainer
        if name in tensors:
            if others := sorted(set(map(str, tensors)) - {name}):
                warn(f"{path}: only {name} is used, and {', '.join(others)} ignored")
            return {path.stem: tensors[name]}
    return tensors
