"""Compiles programs in the background and caches them in the user's cache folder, so that commands start sooner."""

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

_THREAD = "compiling"


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache for this process, unless JAX_COMPILATION_CACHE_DIR is set.

    The user can set this variable to another folder, or leave it empty to have no cache. Only the user can access the
    folder, because anyone who can write to it can run code in the processes that read it.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reversion_jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # fails if the folder belongs to another user
    except (OSError, RuntimeError):
        return  # without a home folder that can be written, there is no cache, which only costs time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small programs also take their time


def in_background(function: Callable[[], Any], after: "Future[Any] | None" = None) -> "Future[Any]":
    """Calls `function`, which compiles a program, in a separate thread; returns the future of its result.

    after: the future of another compilation, which must be done before this one starts.
    Python waits for the thread before it exits, because an exit while the compiler works would crash.
    """
    future: Future[Any] = Future()

    def run() -> None:
        try:
            wait([after] if after else [])
            future.set_result(function())
        except BaseException as error:  # raised again when the result is requested
            future.set_exception(error)

    thread = threading.Thread(target=run, name=_THREAD, daemon=True)
    thread.start()
    atexit.register(thread.join)
    return future


def is_under_way() -> bool:
    """Returns whether a program is being compiled in the background. Such a compilation cannot be stopped."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
