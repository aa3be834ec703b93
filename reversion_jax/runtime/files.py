"""Reads and writes local files and files in cloud storage: gs://, and other storage that etils.epath supports."""

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
    """Returns the path for a name that the user gave; ~ means the home folder. The path need not exist.

    Raises ValueError if the storage cannot be reached.
    """
    with _one_error(name):
        path = epath.Path(os.path.expanduser(name))  # a shell does not expand ~ in --workdir=~/runs
        if is_remote(path):
            path.exists()  # shows before the training, not after it, that a driver or an access right is missing
    return path


def default_workdir(config: str) -> str:
    """Returns the folder for the results of a config file: runs/a for configs/a.py, runs/a-b for configs/a.py:b."""
    file, _, argument = config.partition(":")
    return f"runs/{'-'.join(filter(None, (Path(file).stem, argument)))}"


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is in cloud storage."""
    return "://" in os.fspath(path)


def is_file(path: epath.PathLike | zipfile.Path) -> bool:
    """Returns whether a path is a regular file. Reading a pipe or a device with epath would never end."""
    if isinstance(path, zipfile.Path) or is_remote(path):
        return path.is_file() if isinstance(path, zipfile.Path) else epath.Path(path).is_file()
    return os.path.isfile(path)


def from_json(text: str | bytes, **options: Any) -> Any:
    """Parses JSON.

    options: arguments of `json.loads`. Raises ValueError if the JSON is invalid or nested too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def write(path: epath.PathLike, content: bytes | str) -> None:
    """Writes a file completely or not at all. Text is encoded as UTF-8."""
    path = epath.Path(path)
    content = content.encode() if isinstance(content, str) else content
    if is_remote(path):  # an object in cloud storage appears only when it is complete; renaming it would copy it
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
    """Yields an empty temporary folder, which becomes `folder` when the body ends, or is deleted if the body raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as beside:
        draft = Path(beside) / folder.name
        draft.mkdir()
        yield draft
        draft.replace(folder)


def append(path: epath.PathLike, text: str) -> None:
    """Appends text to a file."""
    path = epath.Path(path)
    if is_remote(path):  # an object in cloud storage cannot be appended to: gcsfs would replace it
        with _one_error(path):
            before = path.read_bytes() if path.exists() else b""
        write(path, before + text.encode())
        return
    with path.open("a") as file:
        file.write(text)


@contextlib.contextmanager
def _one_error(name: epath.PathLike) -> Iterator[None]:
    """Turns a storage driver's errors, whose classes differ from driver to driver, into ValueErrors of one line."""
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # gcsfs logs each error that it raises, with a stack trace
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{name}: unknown kind of storage; give a folder, or gs://bucket/folder") from error
    except Exception as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such bucket" if missing else (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot reach {name}: {reason}") from error
