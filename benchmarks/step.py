"""Measures a training step of Stable Diffusion 1.5 on the CPU: two loops in PyTorch, compared with ours.

    python benchmarks/step.py --resolution 256

The model has full size, float32 and random weights. All loops have ReVersion's losses and one micro-batch per step:
- "published" is the loop that ReVersion's authors describe, written with classes of diffusers and transformers. Each
  step encodes the exemplars by the VAE, differentiates and updates the whole token table (AdamW), and restores the old
  rows.
- "written well" is PyTorch too, but it encodes the exemplars once, and differentiates and updates only the row.
- "ours" is reversion_jax, which compiles the step while it reads the weights, as `train` does.
- "ours, again" is reversion_jax with the compiled program in the cache, as in a second run of `train`.

The loops take turns, --rounds times, each time in a new process. The fastest time of each loop counts. The script needs
Linux, torch, diffusers and transformers, 12 GiB of memory, and 5 GB of disk for temporary weights (or --weights, a
diffusers folder).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from beside_pytorch import alone, require_pytorch, status_gib, torch_models, weights

EXEMPLARS = 8
PREPOSITIONS = 56  # the number of prepositions in ReVersion's list
POSITIVES = 4  # prepositions per sample
TEMPERATURE, CONTROL_WEIGHT, IMPORTANCE = 0.07, 0.01, 0.5
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.01
# {resolution: minimum work in TFLOP per sample}. Each sum adds the TFLOP of the UNet's forward pass and of its backward
# pass for activations only, by PyTorch's counter.
FLOOR = {256: 0.180 + 0.181, 512: 0.803 + 0.866}


class Task(NamedTuple):
    """The data of all loops. The relation's token id is `vocab_size`, the first id after the model's vocabulary."""

    pictures: np.ndarray  # float32 [E, H, W, 3] in [-1, 1]
    ids: np.ndarray  # [E, 77]
    is_negative: np.ndarray  # bool [E, 77]
    prepositions: np.ndarray  # token ids [W]
    batch_size: int


class Cost(NamedTuple):
    """The time and memory of a loop. `loaded_seconds` and `first_step_seconds` count from the start of the process."""

    step_seconds: float
    loaded_seconds: float
    first_step_seconds: float
    peak_gib: float
    imports_gib: float


def make_task(resolution: int, batch_size: int, vocab_size: int) -> Task:
    rng = np.random.default_rng(0)
    pictures = rng.uniform(-1, 1, (EXEMPLARS, resolution, resolution, 3)).astype(np.float32)
    start, end = vocab_size - 2, vocab_size - 1
    ids = np.full((EXEMPLARS, 77), end)
    ids[:, 0], ids[:, 1:4] = start, rng.integers(0, start, (EXEMPLARS, 3))
    ids[:, 2] = vocab_size
    is_negative = np.isin(np.arange(77), (1, 3)) & (ids < start)
    return Task(pictures, ids, is_negative, rng.choice(start, PREPOSITIONS, replace=False), batch_size)


def published(task: Task, path: Path, steps: int, cache: str, started: float) -> Cost:
    import torch

    imports_gib, text, vae, unet, scheduler = torch_models(path)
    table = text.get_input_embeddings().weight.requires_grad_(True)
    before = table.detach()[:-1].clone()
    optimiser = torch.optim.AdamW([table], LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    pictures = torch.from_numpy(task.pictures).permute(0, 3, 1, 2).contiguous()

    def one_step():
        chosen = torch.randint(EXEMPLARS, (task.batch_size,))
        with torch.no_grad():
            latents = vae.encode(pictures[chosen]).latent_dist.sample() * vae.config.scaling_factor
        loss = _torch_loss(task, text, unet, scheduler, latents, chosen, table[-1], table.detach())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            table[:-1] = before
        return loss.item()

    return _cost(lambda count: [one_step() for _ in range(count)][-1], steps, started, imports_gib)


def written_well(task: Task, path: Path, steps: int, cache: str, started: float) -> Cost:
    import torch

    imports_gib, text, vae, unet, scheduler = torch_models(path)
    table = text.get_input_embeddings().weight
    row = table[-1].clone().requires_grad_(True)
    placeholder = len(table) - 1
    text.get_input_embeddings().register_forward_hook(
        lambda module, arguments, found: torch.where((arguments[0] == placeholder)[..., None], row, found)
    )
    optimiser = torch.optim.AdamW([row], LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    pictures = torch.from_numpy(task.pictures).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        posteriors = [vae.encode(some).latent_dist for some in pictures.split(4)]
        mean = torch.cat([p.mean for p in posteriors]) * vae.config.scaling_factor
        std = torch.cat([p.std for p in posteriors]) * vae.config.scaling_factor

    def one_step():
        chosen = torch.randint(EXEMPLARS, (task.batch_size,))
        latents = mean[chosen] + std[chosen] * torch.randn_like(mean[chosen])
        loss = _torch_loss(task, text, unet, scheduler, latents, chosen, row, table)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return _cost(lambda count: [one_step() for _ in range(count)][-1], steps, started, imports_gib)


def ours(task: Task, path: Path, steps: int, cache: str, started: float) -> Cost:
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    import jax.numpy as jnp

    from reversion_jax.inversion import step
    from reversion_jax.runtime import parallel
    from reversion_jax.runtime.timeline import Timeline
    from reversion_jax.training import ahead, inputs
    from reversion_jax.weights import folder

    imports_gib = status_gib("VmRSS")
    mesh = parallel.make_mesh(task.batch_size)
    opened = folder.open_model(path)
    blank = ahead.without_weights(opened.blank(np.float32), mesh)
    no_pictures = inputs.blank_posterior(opened.config.vae, task.pictures)
    data, hyper, config, state = _our_arguments(task, no_pictures, opened.config.text.hidden_size)
    static = {"config": config, "capacity": 0}  # one step per call, as `train` trains a large model on a CPU
    compiled = ahead.compile_step(state.rows, blank, data, hyper, timeline=Timeline(), **static)
    params = opened.read(np.float32, lambda tree: parallel.replicate(tree, mesh)).params
    posterior = inputs.posterior(params["vae"], opened.config.vae, task.pictures, 0.0)
    data = data._replace(mean=jnp.asarray(posterior[0])[None], std=jnp.asarray(posterior[1])[None])
    data, hyper, state = parallel.replicate((data, hyper, state), mesh)
    static |= {"model": opened.config, "schedule": opened.schedule, "mesh": mesh}

    def run(count):
        nonlocal state
        compiled.result()
        for _ in range(count):
            with jax.default_matmul_precision(blank.products):  # else JAX compiles again
                state, metrics = step.train_steps(state, jnp.int32(1), params, data, hyper, **static)
        return metrics.denoising[0, 0].item() + CONTROL_WEIGHT * metrics.control[0, 0].item()

    return _cost(run, steps, started, imports_gib)


def work(task: Task) -> tuple[float, float]:
    """Returns the TFLOP of our step by XLA's count: as training compiles it, and with attention without loops."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from flax.traverse_util import unflatten_dict

    from reversion_jax.diffusion.schedule import Schedule
    from reversion_jax.inversion import step
    from reversion_jax.models import attention
    from reversion_jax.models.presets import SD15
    from reversion_jax.weights import folder

    params = {
        part: unflatten_dict({k: jax.ShapeDtypeStruct(v, np.float32) for k, v in shapes.items()}, sep="/")
        for part, shapes in folder.parameter_shapes(SD15).items()
    }
    height, width = (side // SD15.vae.downscale for side in task.pictures.shape[1:3])
    posterior = (np.zeros((EXEMPLARS, height, width, SD15.vae.latent_channels), np.float32),) * 2
    data, hyper, config, state = _our_arguments(task, posterior, SD15.text.hidden_size)

    def count():
        one_step = lambda *arguments: step.train_step(*arguments, model=SD15, schedule=Schedule(), config=config)
        program = jax.jit(one_step).lower(state, params, data, hyper).compile()
        return program.cost_analysis()["flops"] / 1e12

    compiled = count()
    attention._LONG = 10**9
    jax.clear_caches()  # JAX keeps the traces of repeated layers, with loops
    return compiled, count()


def _our_arguments(task: Task, posterior: tuple[Any, Any], width: int):
    """Returns the data, hyperparameters, config and first state for our step to train ReVersion's method."""
    import jax.numpy as jnp

    from reversion_jax.inversion import step
    from reversion_jax.inversion.arrays import Data

    words = jnp.asarray(task.prepositions[:, None], jnp.int32)
    # ReVersion's method uses no inverse prompts, so the direct prompts take their places.
    each = lambda array: jnp.broadcast_to(array[None, :, None, None], (1, EXEMPLARS, 1, 2, 77))
    data = Data(
        *(jnp.asarray(array)[None] for array in posterior),
        num_exemplars=jnp.array([EXEMPLARS]),
        ids=each(jnp.asarray(task.ids, jnp.int32)),
        is_negative=each(jnp.asarray(task.is_negative)),
        num_templates=jnp.ones((1, EXEMPLARS), jnp.int32),
        prepositions=words,
        verbs=words,
        vocabulary=words[None, :, 0],
        num_vocabulary=jnp.array([PREPOSITIONS]),
    )
    values = {
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "denoise_weight": 1.0,
        "control_weight": CONTROL_WEIGHT,
        "verb_weight": 0.0,
        "temperature": TEMPERATURE,
        "inverse_share": 0.0,
        "importance": IMPORTANCE,
        "latent_sigma": 0.0,
    }
    floats = {name: jnp.array([value], jnp.float32) for name, value in values.items()}
    hyper = step.Hyperparameters(seed=jnp.zeros(1, jnp.uint32), **floats)
    config = step.StepConfig(task.batch_size, accumulation=1, positives_per_sample=POSITIVES, rows_per_token=1)
    return data, hyper, config, step.init_state(jnp.full((1, 2, width), 0.02, jnp.float32), config)


def _torch_loss(task, text, unet, scheduler, latents, chosen, row, table):
    """Returns ReVersion's loss: denoising, and steering `row` towards prepositions and away from the prompts' words."""
    import torch
    import torch.nn.functional as F

    total = scheduler.config.num_train_timesteps
    importance = 1 - IMPORTANCE * torch.cos(torch.pi * torch.arange(total) / total)
    timesteps = torch.multinomial(importance, len(latents), replacement=True)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    ids = torch.from_numpy(task.ids)[chosen]
    denoising = F.mse_loss(unet(noisy, timesteps, text(ids).last_hidden_state).sample, noise)

    drawn = torch.cat([torch.randperm(PREPOSITIONS)[:POSITIVES] for _ in latents])
    positives = torch.from_numpy(task.prepositions)[drawn]
    negatives = ids[torch.from_numpy(task.is_negative)[chosen]]
    toward, away = (
        torch.exp(F.cosine_similarity(row[None], table[words]) / TEMPERATURE).sum() for words in (positives, negatives)
    )
    return denoising - CONTROL_WEIGHT * torch.log(toward / (toward + away))


def _cost(run: Callable[[int], float], steps: int, started: float, imports_gib: float) -> Cost:
    """Runs the first step of a loop that has loaded its model, then times `steps` further steps.

    `run` takes a number of steps, runs them and returns the last loss. Raises FloatingPointError if the loss is not
    finite.
    """
    loaded = time.time() - started
    run(1)
    first = time.time() - started
    start = time.perf_counter()
    loss = run(steps)
    seconds = (time.perf_counter() - start) / steps
    if not np.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")
    return Cost(seconds, loaded, first, status_gib("VmHWM"), imports_gib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256, choices=sorted(FLOOR))
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed in each round, after the first step")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights", help="a diffusers folder of Stable Diffusion 1.x")
    options = parser.parse_args()
    require_pytorch()

    task = make_task(options.resolution, options.batch_size, vocab_size=49408)
    loops = {"PyTorch, published": published, "PyTorch, written well": written_well, "ours": ours, "ours, again": ours}
    costs = {name: [] for name in loops}
    with weights(options.weights) as path:
        for turn in range(options.rounds):
            with tempfile.TemporaryDirectory() as cache:
                for name, loop in loops.items():
                    costs[name].append(alone(loop, task, path, options.steps, cache, time.time()))
                    print(f"round {turn + 1}, {name}: {costs[name][-1].step_seconds:.2f} s per step", flush=True)
    compiled, unrolled = alone(work, task)

    # Other work on the machine can only increase a time, so the minimum is the best estimate.
    best = {name: Cost(*map(min, zip(*found, strict=True))) for name, found in costs.items()}
    print(f"\nbatch {options.batch_size}, {options.resolution} px, float32, best of {options.rounds} rounds\n")
    ready = "seconds until loaded | until the first step"
    print(f"| | seconds per step | relative to ours | peak GiB | without imports | {ready} |")
    print("|---|---|---|---|---|---|---|")
    for name, cost in best.items():
        ratio = cost.step_seconds / best["ours"].step_seconds
        memory = f"{cost.peak_gib:.2f} | {cost.peak_gib - cost.imports_gib:.2f}"
        ready = f"{cost.loaded_seconds:.0f} | {cost.first_step_seconds:.0f}"
        print(f"| {name} | {cost.step_seconds:.2f} | {ratio:.2f} | {memory} | {ready} |")
    floor = options.batch_size * FLOOR[options.resolution]
    print(f"\nminimum, the UNet forward and backward for activations only: {floor:.3f} TFLOP per step")
    print(f"our step by XLA's count, with the text encoder: {compiled:.3f} TFLOP, bodies of loops counted once")
    print(f"the same without loops in attention: {unrolled:.3f} TFLOP, {unrolled / floor:.2f} of the minimum")
    print(f"our rate for the minimum work: {floor / best['ours'].step_seconds:.3f} TFLOP/s")


if __name__ == "__main__":
    main()
