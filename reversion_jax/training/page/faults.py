"""Turns the library's errors and warnings into sentences for the page."""

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
    """Returns a message of the library as one line, without the advice to use a caption's explicit form.

    The page's users find the explicit form in docs/app.md.
    """
    return re.sub(r',? (or )?[Uu]se \{"text".*', "", re.sub(r"\s*\n\s*", " ", text)).strip()


def sentence(error: BaseException) -> str:
    """Returns a sentence about an error for the user.

    If the error is a bug of ours, prints the stack trace in the terminal.
    """
    if isinstance(error, ValueError | OSError | FloatingPointError):
        text = plain(str(error)) or type(error).__name__
        starts_with_a_word = re.match(r"[a-z]+[ ,]", text)  # not with the name of a file or a setting
        text = text[0].upper() + text[1:] if starts_with_a_word else text
        return text if text.endswith((".", "!", "?")) else f"{text}."
    if "RESOURCE_EXHAUSTED" in str(error):  # JAX and XLA say this if memory runs out
        return "The device has too little memory: close other programs that use it, or draw fewer pictures."
    traceback.print_exception(error)
    return "Something went wrong that you did not cause. The terminal in which the app runs shows the error."


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Collects the library's warnings in this thread, but not the warnings of other threads.

    The terminal still shows all warnings.
    """
    _listen()
    outer: list[str] | None = getattr(_listening, "notes", None)
    notes: list[str] = []
    _listening.notes = notes
    try:
        yield notes
    finally:
        _listening.notes = outer


def tell(note: str) -> None:
    """Adds a note to the warnings that `heard` collects in this thread, without a warning in the terminal."""
    notes = getattr(_listening, "notes", None)
    if notes is not None and note not in notes:
        notes.append(note)


def _listen() -> None:
    # `warnings.catch_warnings` is not used, because it would collect the warnings of all threads.
    warnings.filterwarnings("always", category=Caution)
    if getattr(warnings.showwarning, "func", None) is not _show:
        warnings.showwarning = functools.partial(_show, warnings.showwarning)


def _show(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, Caution):
        tell(str(message))
    others(message, category, *where)
