"""A plain, resumable training loop for whole networks, for DreamBooth and for pre-training the miniature model."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from tqdm import tqdm

from reversion_jax.runs.checkpoints import Checkpoints
from reversion_jax.runtime import files, parallel


def check_recipe(workdir: epath.PathLike, recipe: dict[str, Any]) -> None:
    """Writes the settings of a training to workdir/recipe.json.

    Raises ValueError if the file exists and has other settings.
    """
    path, mine = epath.Path(workdir) / "recipe.json", json.dumps(recipe, indent=2) + "\n"
    if path.exists() and path.read_text() != mine:
        raise ValueError(f"{workdir} holds a training with another recipe: give a new --workdir, or delete that folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, mine)


def fit(
    name: str,
    state: Any,
    step_fn: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]],
    batch_fn: Callable[[int], Any],
    num_steps: int,
    workdir: epath.PathLike,
    checkpoints: int = 12,
) -> Any:
    """Runs `state, metrics = step_fn(state, batch_fn(step))` up to step `num_steps`, and returns the last state.

    name: names the checkpoints' folder and the file of metrics, NAME.jsonl, in `workdir`.
    checkpoints: number of checkpoints to write, at even distances.
    Training resumes from the newest checkpoint in `workdir`.

    The batch is divided among all devices if its length is a multiple of the number of devices; otherwise each device
    gets the whole batch. On a CPU with two cores, training on two simulated devices is faster than on one device with
    XLA's threads.
    Raises FloatingPointError, naming the step, if a metric is not finite.
    """
    mesh = parallel.make_mesh(jax.device_count())
    workdir = epath.Path(workdir)
    kept = Checkpoints(workdir / name)
    first = kept.latest() or 0
    if first:
        state = kept.restore(state)
    state = parallel.replicate(state, mesh)
    every = max(num_steps // checkpoints, 1)
    with tqdm(range(first, num_steps), name, num_steps, initial=first, mininterval=1) as bar:
        for step in bar:
            state, metrics = step_fn(state, parallel.share(batch_fn(step), mesh))
            saves = (step + 1) % every == 0 or step + 1 == num_steps
            if step % 50 == 0 or saves:  # metrics are also checked before a checkpoint, to keep checkpoints finite
                values = {key: float(value) for key, value in metrics.items()}
                if not np.isfinite(list(values.values())).all():
                    raise FloatingPointError(f"{name}: not finite at step {step}: {values}")
                bar.set_postfix({key: f"{value:.4f}" for key, value in values.items()})
                files.append(workdir / f"{name}.jsonl", json.dumps({"step": step, **values}) + "\n")
            if saves:
                kept.save(step + 1, state)
    kept.close()
    return jax.device_get(state)


def gradient_step(
    loss_fn: Callable[..., tuple[jax.Array, dict[str, jax.Array]]], optimiser: optax.GradientTransformation
) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Returns a `step_fn` for `fit`: one step of the optimiser on `loss, metrics = loss_fn(params, *batch)`.

    The state is (params, moments); `moments` is the optimiser's state.
    """

    @partial(jax.jit, donate_argnums=0)
    def step_fn(state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        params, moments = state
        grads, metrics = jax.grad(loss_fn, has_aux=True)(params, *batch)
        updates, moments = optimiser.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), metrics

    return step_fn


def one_cycle(steps: int, rate: float) -> optax.Schedule:
    """Returns a learning rate schedule: it rises to `rate` in the first tenth of the steps, then decays by a cosine."""
    return optax.cosine_onecycle_schedule(steps, rate, pct_start=0.1, div_factor=20, final_div_factor=200)
