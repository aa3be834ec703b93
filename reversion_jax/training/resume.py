"""Resumes a stopped job from its newest checkpoint, if the config still describes the same job."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from reversion_jax import config as settings
from reversion_jax.config import FREE, Settings
from reversion_jax.inversion import step
from reversion_jax.runs import checkpoints, folder, history
from reversion_jax.runs.checkpoints import Checkpoints
from reversion_jax.runtime.parallel import is_first
from reversion_jax.training.prepare import Job, first_state
from reversion_jax.weights.fingerprint import fingerprint
from reversion_jax.weights.resolve import resolve

_PACKAGES = ("reversion_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_REMEDY = "give a new --workdir, or delete that one"


def check(config: Settings, workdir: epath.Path) -> Settings:
    """Checks whether a job can start or resume in `workdir`, and returns the job's settings. Loads nothing large.

    If the job is resumed and `samples_at_once` is not set, this setting keeps its value from when the job began.
    Raises ValueError if the folder holds a run with other settings, or a run that cannot be resumed.
    """
    kept = checkpoints.steps(workdir / folder.CHECKPOINTS)
    if not kept:
        runs = [workdir / name for name in settings.each_run(config)]
        if learned := [place for place in runs if (place / folder.NEWEST).exists()]:
            raise ValueError(f"{learned[0]} holds learned rows, but no checkpoint to resume from: {_REMEDY}")
        return config
    if not (workdir / folder.CONFIG).exists():
        raise ValueError(f"{workdir} holds checkpoints but no {folder.CONFIG}: {_REMEDY}")
    theirs, _ = folder.read_settings(workdir)
    if (config.negatives, theirs.negatives) == ("vocabulary", "tokens"):
        # Before version 0.5, negatives="vocabulary" meant what "tokens" means now.
        config = dataclasses.replace(config, negatives="tokens")
    values, other = _plain(config), _plain(theirs)
    if changed := sorted(key for key in values if key not in FREE and values[key] != other[key]):
        told = ", ".join(f"{key} ({other[key]!s:.40}, not {values[key]!s:.40})" for key in changed)
        raise ValueError(f"{workdir} holds a run with another {told}: {_REMEDY}")
    if kept[-1] > config.steps:
        raise ValueError(
            f"{workdir} is at step {kept[-1]} already, beyond config.steps={config.steps}: "
            "give more steps, or a new --workdir"
        )
    return dataclasses.replace(config, samples_at_once=config.samples_at_once or theirs.samples_at_once or 0)


def take_up(job: Job, workdir: epath.Path, checkpoints: Checkpoints) -> step.State:
    """Returns the state of the newest undamaged checkpoint, or the first state if there is no checkpoint.

    Deletes the metrics of later steps, and writes config.json. Raises ValueError if the folder holds a run on another
    base model.
    """
    state = first_state(job)
    mine = origin(job)
    if checkpoints.latest() is not None:
        _, theirs = folder.read_settings(workdir)
        if theirs.get("model_hash", mine["model_hash"]) != mine["model_hash"]:
            raise ValueError(f"{workdir} holds a run on another model than the present {job.config.model}: {_REMEDY}")

        def is_whole(at: int, tree: step.State) -> bool:
            return _kept_hash(folder.rows_file(workdir / job.runs[0].name, at)) in ("", state_hash(tree))

        state = checkpoints.restore(state, is_whole)
    if is_first():
        folder.write_settings(workdir, job.config, mine)
        for run in job.runs:
            if run.name:
                folder.write_settings(workdir / run.name, run.config, mine)
            history.cut(workdir / run.name / history.NAME, int(state.step))
    return state


def state_hash(state: step.State) -> str:
    """Returns a hash of a state's numbers, 16 hex digits.

    The hash is stored with the rows and compared when a checkpoint is read, because Orbax does not notice changed
    bytes.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _kept_hash(path: epath.Path) -> str:
    """Returns the checkpoint's hash stored in a file of rows; "" if the file is missing or damaged or has no hash."""
    try:
        return folder.read_rows(path).checkpoint
    except (OSError, ValueError):
        return ""


def _plain(settings: Settings) -> dict[str, Any]:
    """Returns settings as JSON represents them, for comparison with settings that were read from a file."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def origin(job: Job) -> dict[str, Any]:
    """Returns the origin of the job's learned words, for config.json: base model and its hash, versions, device."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "model": job.config.model,
        "model_is_local": Path(job.config.model).expanduser().exists(),
        "model_hash": fingerprint(resolve(job.config.model)),
        "versions": {"python": platform.python_version(), **versions},
        "device": jax.devices()[0].device_kind,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # this package itself is not installed if it runs from a checkout
