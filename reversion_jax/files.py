"""Files in folders of this machine and in cloud storage: gs://bucket/folder, and whatever else etils.epath reads."""

import contextlib
import logging
import os
from collections.abc import Iterator

from etils import epath


def place(name: str) -> epath.Path:
    """The folder that a user calls so, which need not exist; ValueError if it is in a storage out of reach."""
    with _one_error(name):
        path = epath.Path(name)
        if is_remote(path):
            path.exists()  # a missing driver or a missing right should not cost a training run
    return path


def is_remote(path: epath.PathLike) -> bool:
    """Whether it is in cloud storage."""
    return "://" in os.fspath(path)


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
