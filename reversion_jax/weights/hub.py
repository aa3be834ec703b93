"""Files from the Hugging Face hub, or from its cache where the hub cannot be reached; and files to the hub."""

import re
import sys
from collections.abc import Callable, Sequence
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
    check: Callable[[Path], object] | None = None,
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
    if check:
        try:
            folder = snapshot([name for name in files if name.endswith(".json")])
        except Exception as error:
            raise ValueError(_advice(repository, revision, _first_line(error))) from error
        check(folder)
    try:
        return snapshot(files)
    except Exception as error:
        raise ValueError(_advice(repository, revision, _first_line(error))) from error


def check_push(repository: str, *, sends: bool = True) -> None:
    """ValueError, one line, for a name that no repository can have, and if there is no token to send by."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    if parse_id(repository) != (repository, None):
        raise ValueError(f"{repository!r} is no repository: give OWNER/NAME, where OWNER is you or your organisation")
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ValueError(f"{repository!r} cannot be a repository: {_first_line(error)}") from error
    if sends and not get_token():
        raise ValueError("no token for the Hugging Face hub: run hf auth login, or set HF_TOKEN")


def push(folder: Path, names: Sequence[str], repository: str, *, private: bool, message: str) -> str:
    """Sends the files `names` of a folder; returns the repository's address.

    The repository is made if need be; private, or else as the owner's new ones are. ValueError, one line.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise ValueError("it exists and is public: make it private on the hub, or leave out --private")
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(names), commit_message=message)
    except HfHubHTTPError as error:
        mended = (
            "" if error.response.status_code not in (401, 403) else ": use another token, hf auth login or HF_TOKEN"
        )
        raise ValueError(f"the hub refuses {repository} ({_first_line(error)}){mended}") from error
    except Exception as error:  # its HTTP client's errors and the disk's have no common ancestor
        causes = dict.fromkeys(_first_line(one) for one in (error, error.__cause__) if one)
        raise ValueError(f"cannot push to {repository}: {' '.join(causes)}") from error
    return str(address)


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _advice(repository: str, revision: str | None, reason: str) -> str:
    arguments = repository if revision is None else f"{repository} --revision {revision}"
    return (
        f"cannot get {repository!r} from the Hugging Face hub ({reason}): on a machine with internet run "
        f'"hf download {arguments}" (after "hf auth login" if it is gated) and copy the folder here, then give its path'
    )
