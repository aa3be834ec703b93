"""Orbax checkpoints of what is trained: rows, optimiser state, step; never frozen weights."""

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath


class Checkpoints:
    """Numbered checkpoints of one pytree under `folder`; each is written to a temporary name, then renamed."""

    def __init__(self, folder: epath.PathLike, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
        folder = epath.Path(folder)
        # epath would put the working folder in front of gs:// as well.
        folder = folder if folder.is_absolute() else folder.absolute()
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, tree: Any) -> None:
        """Writes `tree` as checkpoint `step`, unless that one exists."""
        exists = step in self._manager.all_steps()
        if not exists and not self._manager.save(step, args=ocp.args.StandardSave(tree)):
            raise OSError(f"checkpoint {step} was not written to {self._manager.directory}")

    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    def restore(self, like: Any) -> Any:
        """The newest checkpoint, in the structure, shapes, dtypes and placement of `like`.

        ValueError where there is none, or where it holds something else.
        """
        step = self.latest()
        if step is None:
            raise ValueError(f"{self._manager.directory} holds no checkpoint")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"checkpoint {step} in {self._manager.directory} does not fit: {reason}") from error

    def close(self) -> None:
        self._manager.close()


def read_rows(folder: epath.Path) -> tuple[np.ndarray, int]:
    """The rows [R, P, D] of the newest checkpoint in `folder`, whatever else it holds, and its step. ValueError."""
    steps = [int(child.name) for child in folder.iterdir() if child.name.isdigit()]
    if not steps:
        raise ValueError(f"{folder} holds no checkpoint")
    path = folder / str(max(steps)) / "default"
    # Not through the manager, which wants the optimiser's state described before it reads anything.
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    found = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return found["rows"], int(found["step"])
