"""Gets files from the Hugging Face hub, or from the local cache if the hub cannot be reached; uploads files."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reversion_jax.models.tokenizer import has_tokenizer

_CLIP = "openai/clip-vit-large-patch14"  # every Stable Diffusion 1.x has the text encoder and tokenizer of this CLIP
_CLIP_FILES = ("vocab.json", "merges.txt")


def parse_id(name: str) -> tuple[str, str | None] | None:
    """Returns repository and revision of a hub id, "owner/name" or "owner/name@revision"; None for any other name."""
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
    """Downloads some files of a repository and returns the local folder that holds them.

    choose: a function that gets the names of all files in the repository and returns the names to download. check: a
    function that gets the folder when only the .json files are there, so that it can raise before large files are
    downloaded.

    If the hub cannot be reached and the cache has all files that `choose` asks for, the cached copy is used, and a line
    on stderr says so, unless `quiet`. Raises ValueError, with a message of one line, if the files are neither on the
    hub nor in the cache, and passes on what `choose` and `check` raise.
    """
    from huggingface_hub import HfApi, snapshot_download

    def snapshot(files: list[str], **kwargs: Any) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files, **kwargs))

    try:
        # list_repo_files is not used, because it retries for half a minute and prints warnings.
        found = HfApi().model_info(repository, revision=revision, timeout=10).siblings
        names = [file.rfilename for file in found or ()]
    except Exception as error:  # the errors of the hub, of its HTTP client and of the disk have no common base class
        reason = _first_line(error)
        try:
            folder = snapshot([], local_files_only=True)
            choose([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])
        except Exception:
            raise ValueError(_advice(repository, revision, reason)) from error
        if not quiet:
            print(f"{repository}: using the cached copy, because the hub cannot be reached ({reason})", file=sys.stderr)
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
    """Raises ValueError if no repository can have this name, or if `sends` is set and there is no access token."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    if parse_id(repository) != (repository, None):
        raise ValueError(f"{repository!r} names no repository: give OWNER/NAME, with you or your organisation as OWNER")
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ValueError(f"{repository!r} cannot be a repository: {_first_line(error)}") from error
    if sends and not get_token():
        raise ValueError("no access token for the Hugging Face hub: run hf auth login, or set HF_TOKEN")


def push(folder: Path, names: Sequence[str], repository: str, *, private: bool, message: str) -> str:
    """Uploads the files `names` of a folder to a repository; returns the repository's address.

    A repository that does not exist is created: as a private one if `private` is set, otherwise as the owner's account
    creates them by default. Raises ValueError, with a message of one line, if the hub refuses the upload or cannot be
    reached, or if `private` is set and the repository exists and is public.
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
            "" if error.response.status_code not in (401, 403) else ": use another token (hf auth login or HF_TOKEN)"
        )
        raise ValueError(f"the hub refuses {repository} ({_first_line(error)}){mended}") from error
    except Exception as error:  # the errors of the HTTP client and of the disk have no common base class
        causes = dict.fromkeys(_first_line(one) for one in (error, error.__cause__) if one)
        raise ValueError(f"cannot push to {repository}: {' '.join(causes)}") from error
    return str(address)


def clip_tokenizer(beside: Path) -> Path:
    """Returns the folder of the tokenizer for the single-file checkpoint `beside`.

    The folder is tokenizer/ beside the checkpoint or, if there is no such folder, that of CLIP's tokenizer from the
    hub. Raises ValueError if the hub's tokenizer cannot be downloaded; the message says what to do.
    """
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
    """Returns the message for a failed download: the reason, and how to get the files by hand."""
    arguments = repository if revision is None else f"{repository} --revision {revision}"
    return (
        f"cannot get {repository!r} from the Hugging Face hub ({reason}): on a machine with internet run "
        f'"hf download {arguments}" (after "hf auth login" if it is gated), copy the folder here and give its path'
    )
