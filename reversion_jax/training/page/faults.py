"""What the page says when something fails, and what the library warns of meanwhile: a plain sentence each."""

import contextlib
import functools
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from reversion_jax.runtime.errors import Caution

_listening = threading.local()


def plain(text: str) -> str:
    """A message of the library as one line, without the explicit form of a caption: docs/app.md says what that is."""
    return re.sub(r',? (or )?[Uu]se \{"text".*', "", re.sub(r"\s*\n\s*", " ", text)).strip()


def sentence(error: BaseException) -> str:
    """One line for a person. A fault of ours is printed with its stack trace in the terminal, not in the page."""
    if isinstance(error, ValueError | OSError | FloatingPointError):
        text = plain(str(error)) or type(error).__name__
        starts_with_a_word = re.match(r"[a-z]+[ ,]", text)  # not with the name of a file or setting
        text = text[0].upper() + text[1:] if starts_with_a_word else text
        return text if text.endswith((".", "!", "?")) else f"{text}."
    if "RESOURCE_EXHAUSTED" in str(error):  # JAX's and XLA's word for it
        return "The device has too little memory for this: close what else runs on it, or ask for fewer pictures."
    traceback.print_exception(error)
    return "Something went wrong that you did not cause; the terminal in which the app runs says what."


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Collects what the library warns of in this thread; other threads and the terminal are not affected."""
    _listen()
    outer: list[str] | None = getattr(_listening, "notes", None)
    notes: list[str] = []
    _listening.notes = notes
    try:
        yield notes
    finally:
        _listening.notes = outer


def tell(note: str) -> None:
    """Adds a note to what is heard in this thread, without a warning in the terminal."""
    notes = getattr(_listening, "notes", None)
    if notes is not None and note not in notes:
        notes.append(note)


def _listen() -> None:
    # `warnings.catch_warnings` would collect those of all threads.
    warnings.filterwarnings("always", category=Caution)
    if getattr(warnings.showwarning, "func", None) is not _show:
        warnings.showwarning = functools.partial(_show, warnings.showwarning)


def _show(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, Caution):
        tell(str(message))
    others(message, category, *where)
