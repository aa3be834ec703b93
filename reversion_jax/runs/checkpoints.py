"""Orbax checkpoints of what is trained: rows, optimiser state, step; never frozen weights."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from reversion_jax.runtime import parallel
from reversion_jax.runtime.errors import warn


class Checkpoints:
    """Numbered checkpoints of one pytree under `folder`; each is written to a temporary name, then renamed."""

    def __init__(self, folder: epath.PathLike, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
        folder = epath.Path(folder)
        # epath would put the working folder in front of gs:// as well.
        folder = folder if folder.is_absolute() else folder.absolute()
        if parallel.is_first():
            _remove_halves(folder)
        parallel.any_process(False)  # the others wait for it
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, tree: Any) -> None:
        """Writes `tree` as checkpoint `step`, unless that one exists."""
        exists = step in self._manager.all_steps()
        if not exists and not self._manager.save(step, args=ocp.args.StandardSave(tree)):
            raise OSError(f"checkpoint {step} was not written to {self._manager.directory}")

    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    def restore(self, like: Any, is_whole: Callable[[int, Any], bool] = lambda step, tree: True) -> Any:
        """The newest whole checkpoint, in the structure, shapes, dtypes and placement of `like`.

        `is_whole` may find fault with what was read. Damaged checkpoints are warned of and deleted, since training will
        come to their steps again. ValueError where none is whole.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        reasons = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                tree = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
                if not is_whole(step, tree):
                    raise ValueError("its numbers are not those that were written")
            except Exception as error:  # Orbax and its storage raise what they like
                reasons.append((step, _reason(error)))
                continue
            for damaged, reason in reasons:
                warn(
                    f"checkpoint {damaged} in {self._manager.directory} is damaged ({reason}): {step} is taken instead"
                )
                self._manager.delete(damaged)
            return tree
        told = "; ".join(f"{step}: {reason}" for step, reason in reasons) or "there is none"
        raise ValueError(f"no whole checkpoint in {self._manager.directory} ({told}): give a new --workdir")

    def close(self) -> None:
        self._manager.close()


def _remove_halves(folder: epath.Path) -> None:
    """Removes checkpoints without contents: a stop while an old one is deleted leaves them.

    Orbax's manager would take all for another kind of checkpoint.
    """
    for step in steps(folder):
        if not (folder / str(step) / "default").is_dir():
            warn(f"checkpoint {step} in {folder} is damaged (it is empty) and is removed")
            (folder / str(step)).rmtree()


def steps(folder: epath.PathLike) -> list[int]:
    """The steps of the checkpoints in a folder, ascending, whole or not; none if there is no such folder."""
    folder = epath.Path(folder)
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit()) if folder.is_dir() else []


def read_rows(folder: epath.Path, step: int) -> np.ndarray:
    """The rows [R, P, D] of a checkpoint, whatever else it holds. ValueError if it is damaged."""
    path = folder / str(step) / "default"
    try:
        # Not through the manager, which wants the optimiser's state described before it reads anything.
        handler = ocp.PyTreeCheckpointHandler()
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
        return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))["rows"]
    except Exception as error:  # as above
        raise ValueError(f"checkpoint {step} in {folder} is damaged ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The beginning of what an error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
