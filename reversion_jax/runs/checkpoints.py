"""Writes and reads Orbax checkpoints of what training changes: rows, optimiser state and step.

Frozen weights are never saved.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from reversion_jax.runtime import parallel
from reversion_jax.runtime.errors import warn


class Checkpoints:
    """Numbered checkpoints of one pytree under `folder`.

    Each checkpoint is written under a temporary name and then renamed.
    keep: the number of newest checkpoints that are not deleted.
    """

    def __init__(self, folder: epath.PathLike, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
        folder = epath.Path(folder)
        # epath's absolute() would put the working folder in front of gs:// paths, too.
        folder = folder if folder.is_absolute() else folder.absolute()
        if parallel.is_first():
            _remove_empty(folder)
        parallel.any_process(False)  # the other processes wait here for the first process
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, tree: Any) -> None:
        """Writes `tree` as checkpoint `step`, unless this checkpoint exists.

        Raises OSError if the checkpoint cannot be written.
        """
        exists = step in self._manager.all_steps()
        if not exists and not self._manager.save(step, args=ocp.args.StandardSave(tree)):
            raise OSError(f"checkpoint {step} was not written to {self._manager.directory}")

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is no checkpoint."""
        return self._manager.latest_step()

    def restore(self, like: Any, is_whole: Callable[[int, Any], bool] = lambda step, tree: True) -> Any:
        """Returns the newest undamaged checkpoint, with the structure, shapes, dtypes and placement of `like`.

        is_whole: a function that gets a step and the step's tree, and returns False if the tree is damaged. Newer
        checkpoints that are damaged are deleted with a warning, because training will write their steps again. Raises
        ValueError if no checkpoint is undamaged.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        reasons = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                tree = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
                if not is_whole(step, tree):
                    raise ValueError("its numbers differ from those that were written")
            except Exception as error:  # Orbax and storage drivers raise errors of many classes
                reasons.append((step, _reason(error)))
                continue
            for damaged, reason in reasons:
                warn(f"checkpoint {damaged} in {self._manager.directory} is damaged ({reason}): {step} is used instead")
                self._manager.delete(damaged)
            return tree
        told = "; ".join(f"{step}: {reason}" for step, reason in reasons) or "there is none"
        raise ValueError(f"no undamaged checkpoint in {self._manager.directory} ({told}): give a new --workdir")

    def close(self) -> None:
        """Frees the resources of Orbax's manager."""
        self._manager.close()


def _remove_empty(folder: epath.Path) -> None:
    """Removes empty checkpoints. A job that is stopped while it deletes a checkpoint leaves an empty checkpoint.

    Orbax's manager would take an empty checkpoint as a sign that all checkpoints are of another kind.
    """
    for step in steps(folder):
        if not (folder / str(step) / "default").is_dir():
            warn(f"checkpoint {step} in {folder} is damaged (it is empty) and is removed")
            (folder / str(step)).rmtree()


def steps(folder: epath.PathLike) -> list[int]:
    """Returns the steps of all checkpoints in a folder, damaged or not, ascending; [] if there is no folder."""
    folder = epath.Path(folder)
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdigit()) if folder.is_dir() else []


def read_rows(folder: epath.Path, step: int) -> np.ndarray:
    """Reads only the rows [runs, rows per run, width] of a checkpoint.

    Raises ValueError if the checkpoint is damaged.
    """
    path = folder / str(step) / "default"
    try:
        # Orbax's manager is not used, because it reads nothing without a description of the optimiser's state.
        handler = ocp.PyTreeCheckpointHandler()
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
        return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))["rows"]
    except Exception as error:  # Orbax and storage drivers raise errors of many classes
        raise ValueError(f"checkpoint {step} in {folder} is damaged ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Returns the first line of an error's message, cut after 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
