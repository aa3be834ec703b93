"""Files in folders of this machine and in cloud storage: gs://bucket/folder, and whatever else etils.epath reads."""

import contextlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath


def place(name: str) -> epath.Path:
    """The path for a name that the user gave, ~ being home; it need not exist. ValueError if it is out of reach."""
    with _one_error(name):
        path = epath.Path(os.path.expanduser(name))  # a shell leaves --workdir=~/runs as it is
        if is_remote(path):
            path.exists()  # a missing driver or a missing right should not cost a training run
    return path


def is_remote(path: epath.PathLike) -> bool:
    """Whether it is in cloud storage."""
    return "://" in os.fspath(path)


def is_file(path: epath.PathLike | zipfile.Path) -> bool:
    """Whether it is a file that can be read whole: no folder, pipe or device, at which epath waits for ever."""
    if isinstance(path, zipfile.Path) or is_remote(path):
        return path.is_file() if isinstance(path, zipfile.Path) else epath.Path(path).is_file()
    return os.path.isfile(path)


def from_json(text: str | bytes, **options: Any) -> Any:
    """What JSON says; `options` as `json.loads` has them. ValueError, also where lists lie too deep for Python."""
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("lists within lists without end") from error


def write(path: epath.PathLike, content: bytes | str) -> None:
    """Writes a file whole or not at all; text as UTF-8."""
    path = epath.Path(path)
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):  # where objects appear when they are complete, and renaming is copying
        with _one_error(path):
            path.write_bytes(content)
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A draft that becomes `folder` when the body ends. Where the body raises, nothing is left of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as beside:
        draft = Path(beside) / folder.name
        draft.mkdir()
        yield draft
        draft.replace(folder)


def append(path: epath.PathLike, text: str) -> None:
    """Adds lines to a text file."""
    path = epath.Path(path)
    if is_remote(path):  # where nothing can be added to an object: gcsfs would replace it
        with _one_error(path):
            before = path.read_bytes() if path.exists() else b""
        write(path, before + text.encode())
        return
    with path.open("a") as file:
        file.write(text)


@contextlib.contextmanager
def _one_error(name: epath.PathLike) -> Iterator[None]:
    """Makes a ValueError, one line, of whatever a storage's driver raises: each has classes of its own."""
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises, with a stack trace
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{name}: no such kind of storage; give a folder, or gs://bucket/folder") from error
    except Exception as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such bucket" if missing else (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot reach {name}: {reason}") from error
