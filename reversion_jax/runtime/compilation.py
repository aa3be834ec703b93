"""Compiled programs: kept in the user's own cache folder, and made in the background, so that commands start sooner."""

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

_THREAD = "compiling"


def keep_compiled() -> None:
    """Turns JAX's persistent cache on for this process, unless JAX_COMPILATION_CACHE_DIR says where, or is empty.

    The folder is the user's own and closed to others: who can write to it can run code in the processes that read it.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reversion_jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # fails for a folder of someone else's
    except (OSError, RuntimeError):
        return  # no home, or one that cannot be written: that costs time only
    jax.config.update("jax_compilation_cache_dir", str(folder))


def in_background(function: Callable[[], Any]) -> "Future[Any]":
    """Compiles in a thread of its own. Python waits for it at its end: under a compiler at work it would crash."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # whoever waits gets it
            future.set_exception(error)

    thread = threading.Thread(target=run, name=_THREAD, daemon=True)
    thread.start()
    atexit.register(thread.join)
    return future


def is_under_way() -> bool:
    """Whether a program is being compiled in the background, which nothing can stop."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
