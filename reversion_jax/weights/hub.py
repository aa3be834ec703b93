"""Files from the Hugging Face hub, or from its cache where the hub cannot be reached."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reversion_jax.models.tokenizer import has_tokenizer

_CLIP = "openai/clip-vit-large-patch14"  # the text encoder of every Stable Diffusion 1.x, so its tokenizer
_CLIP_FILES = ("vocab.json", "merges.txt")


def parse_id(name: str) -> tuple[str, str | None] | None:
    """Repository and revision of a hub id, "owner/name" or "owner/name@revision"; None if `name` is no such id."""
    found = re.fullmatch(r"(\w[\w.-]*/[\w.-]+?)(?:@([\w./-]+))?", name)
    return (found[1], found[2]) if found else None


def fetch(
    repository: str,
    revision: str | None,
    choose: Callable[[list[str]], list[str]],
    check: Callable[[Path], object] = lambda folder: None,
    *,
    quiet: bool = False,
) -> Path:
    """The local folder of those of a repository's files that `choose` picks out of the names of all.

    `check` sees the folder when only the .json files are there: it may raise before the large ones are fetched.
    Without the hub, a cached copy with everything that `choose` wants serves, and stderr says so unless `quiet`.
    ValueError, one line, if neither has the files, and whatever `choose` and `check` raise.
    """
    from huggingface_hub import HfApi, snapshot_download

    def snapshot(files: list[str], **kwargs: Any) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files, **kwargs))

    try:
        # Not list_repo_files, which tries again for half a minute, aloud.
        found = HfApi().model_info(repository, revision=revision, timeout=10).siblings
        names = [file.rfilename for file in found or ()]
    except Exception as error:  # the hub's errors, its HTTP client's and the disk's have no common ancestor
        reason = _first_line(error)
        try:
            folder = snapshot([], local_files_only=True)
            choose([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])
        except Exception:
            raise ValueError(_advice(repository, revision, reason)) from error
        if not quiet:
            print(f"{repository}: taken from the cache, as the hub cannot be asked ({reason})", file=sys.stderr)
        return folder
    files = choose(names)
    try:
        folder = snapshot([name for name in files if name.endswith(".json")])
    except Exception as error:
        raise ValueError(_advice(repository, revision, _first_line(error))) from error
    check(folder)
    try:
        return snapshot(files)
    except Exception as error:
        raise ValueError(_advice(repository, revision, _first_line(error))) from error


def clip_tokenizer(beside: Path) -> Path:
    """The folder of a tokenizer for a single-file checkpoint: tokenizer/ beside it, or else CLIP's from the hub."""
    folder = beside.parent / "tokenizer"
    if has_tokenizer(folder):
        return folder
    wanted = [*_CLIP_FILES, "tokenizer_config.json", "special_tokens_map.json"]

    def choose(names: list[str]) -> list[str]:
        if missing := set(_CLIP_FILES) - set(names):
            raise ValueError(f"{_CLIP} has no {min(missing)}")
        return [name for name in wanted if name in names]

    try:
        return fetch(_CLIP, None, choose)
    except ValueError as error:
        raise ValueError(
            f"no tokenizer for {beside}: put the vocab.json and merges.txt of {_CLIP} into {folder}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _advice(repository: str, revision: str | None, reason: str) -> str:
    arguments = repository if revision is None else f"{repository} --revision {revision}"
    return (
        f"cannot get {repository!r} from the Hugging Face hub ({reason}): on a machine with internet run "
        f'"hf download {arguments}" (after "hf auth login" if it is gated) and copy the folder here, then give its path'
    )
