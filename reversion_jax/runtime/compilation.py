"""Keeps compiled programs in the user's own cache folder, so that the next command starts sooner."""

import os
from pathlib import Path


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
