"""Takes a stopped job up where its newest checkpoint is, if it is the same job."""

import dataclasses
import json
from typing import Any

from etils import epath

from reversion_jax.config import FREE, Settings
from reversion_jax.inversion import step
from reversion_jax.runs import folder, history
from reversion_jax.runs.checkpoints import Checkpoints
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job, first_state, origin


def take_up(job: Job, workdir: epath.Path, checkpoints: Checkpoints) -> step.State:
    """The newest checkpoint's state, or the first; the metrics beyond it are dropped.

    ValueError if the folder holds another run, by its settings or by its base model.
    """
    state = first_state(job)
    mine = origin(job)
    newest = checkpoints.latest()
    if newest is not None:
        _check_same(job, mine, workdir, newest)
        state = checkpoints.restore(state)
    if is_first():
        folder.write_settings(workdir, job.config, mine)
        for run in job.runs:
            if run.name:
                folder.write_settings(workdir / run.name, run.config, mine)
            history.cut(workdir / run.name / history.NAME, int(state.step))
    return state


def _check_same(job: Job, mine: dict[str, Any], workdir: epath.Path, newest: int) -> None:
    remedy = "give a new --workdir, or delete that one"
    if not (workdir / folder.CONFIG).exists():
        raise ValueError(f"{workdir} holds checkpoints but no {folder.CONFIG}: {remedy}")
    theirs, their_origin = folder.read_settings(workdir)
    values, other = _plain(job.config), _plain(theirs)
    if changed := sorted(key for key in values if key not in FREE and values[key] != other[key]):
        raise ValueError(f"{workdir} holds a run with another {', '.join(changed)}: {remedy}")
    if their_origin.get("model_hash", mine["model_hash"]) != mine["model_hash"]:
        raise ValueError(f"{workdir} holds a run on another model than {job.config.model} is now: {remedy}")
    if newest > job.config.steps:
        raise ValueError(
            f"{workdir} is at step {newest} already, beyond config.steps={job.config.steps}: "
            "give more steps, or a new --workdir"
        )


def _plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))
