"""Measures drawing a picture with Stable Diffusion 1.5 on the CPU: diffusers in PyTorch, compared with ours.

    python benchmarks/sample.py --resolution 512

The model has full size, float32 and random weights. The picture is drawn by DDIM with guidance 7.5, so each step takes
two samples through the UNet. The script runs only --timed_steps steps. From the time per step, and from the time to
encode the prompts and to decode the latents, the script computes the time of a whole picture of --steps steps.

The two programs take turns, --rounds times, each time in a new process. The fastest time of each program counts. The
script has the same requirements as step.py.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from beside_pytorch import alone, require_pytorch, status_gib, torch_models, weights

GUIDANCE = 7.5


class Cost(NamedTuple):
    """The time and the memory that drawing a picture takes.

    `ends_seconds` is the time to encode the prompts and to decode the latents. `first_seconds` is the time from the
    start of the process to the first picture. `imports_gib` is the part of the peak memory that importing packages
    needs.
    """

    step_seconds: float
    ends_seconds: float
    first_seconds: float
    peak_gib: float
    imports_gib: float


def pytorch(path: Path, resolution: int, steps: int, started: float) -> Cost:
    import torch
    from diffusers import DDIMScheduler

    imports_gib, text, vae, unet, _ = torch_models(path)
    scheduler = DDIMScheduler.from_pretrained(path / "scheduler")
    ids = torch.from_numpy(_Tokenizer()(["", "prompt"]))
    noise = torch.randn(1, 4, resolution // 8, resolution // 8)

    def decode(latents):
        return vae.decode(latents / vae.config.scaling_factor).sample.numpy()

    @torch.inference_mode()
    def draw():
        states = text(ids).last_hidden_state
        scheduler.set_timesteps(steps)
        latents = noise
        for timestep in scheduler.timesteps:
            unconditional, conditional = unet(torch.cat([latents] * 2), timestep, states).sample.chunk(2)
            guided = unconditional + GUIDANCE * (conditional - unconditional)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        return decode(latents)

    @torch.inference_mode()
    def ends():
        text(ids)
        decode(noise)

    return _cost(draw, ends, steps, started, imports_gib)


def ours(path: Path, resolution: int, steps: int, started: float) -> Cost:
    import jax

    jax.config.update("jax_platforms", "cpu")
    from reversion_jax.drawing import generate, texts
    from reversion_jax.runtime import parallel
    from reversion_jax.weights import folder

    imports_gib = status_gib("VmRSS")
    mesh = parallel.make_mesh(1)
    sd = folder.load(path)
    sd = sd._replace(params=parallel.replicate(sd.params, mesh))
    sampling = generate.Sampling(steps, GUIDANCE, resolution, batch_size=1)
    tokenizer = _Tokenizer()
    no_rows = np.zeros((0, sd.config.text.hidden_size), np.float32)
    noise = generate.initial_noise([0], sd.config, (resolution, resolution))
    decode = jax.jit(generate.decode, static_argnums=1)

    def ends():
        for text in ("", "prompt"):
            texts.encode_text(sd.params, sd.config, tokenizer([text]), no_rows).block_until_ready()
        decode(sd.params, sd.config.vae, noise).block_until_ready()

    return _cost(
        lambda: generate.draw(sd, tokenizer, ["prompt"], [0], sampling=sampling), ends, steps, started, imports_gib
    )


class _Tokenizer:
    """Replaces a tokenizer, which would need files. Returns 77 ids per text; the values of the ids do not matter."""

    vocab_size = 49408

    def __call__(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.full(77, len(text)) for text in texts])


def _cost(draw: Callable[[], Any], ends: Callable[[], Any], steps: int, started: float, imports_gib: float) -> Cost:
    """Measures `draw`, which makes a picture, and `ends`, which only encodes the prompts and decodes the latents."""
    if not np.isfinite(draw()).all():
        raise FloatingPointError("the picture is not finite")
    first = time.time() - started
    picture = min(_seconds(draw) for _ in range(2))
    peak_gib = status_gib("VmHWM")
    ends()
    ends_seconds = min(_seconds(ends) for _ in range(2))
    return Cost((picture - ends_seconds) / steps, ends_seconds, first, peak_gib, imports_gib)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--steps", type=int, default=25, help="steps of the whole picture, whose time is computed")
    parser.add_argument("--timed_steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights", help="a diffusers folder of Stable Diffusion 1.x")
    options = parser.parse_args()
    require_pytorch()

    both = {"PyTorch (diffusers)": pytorch, "ours": ours}
    costs = {name: [] for name in both}
    with weights(options.weights) as path:
        for turn in range(options.rounds):
            for name, one in both.items():
                costs[name].append(alone(one, path, options.resolution, options.timed_steps, time.time()))
                print(f"round {turn + 1}, {name}: {costs[name][-1].step_seconds:.2f} s per step", flush=True)

    best = {name: Cost(*map(min, zip(*found, strict=True))) for name, found in costs.items()}
    whole = {name: options.steps * cost.step_seconds + cost.ends_seconds for name, cost in best.items()}
    print(f"\n{options.resolution} px, guidance {GUIDANCE}, float32, best of {options.rounds} rounds\n")
    ready = f"seconds until the first picture of {options.timed_steps} steps"
    whole_image = f"a picture of {options.steps} steps, computed"
    times = f"seconds per step | before and after the steps | {whole_image} | relative to ours"
    print(f"| | {times} | peak GiB | without imports | {ready} |")
    print("|---|---|---|---|---|---|---|---|")
    for name, cost in best.items():
        times = f"{cost.step_seconds:.2f} | {cost.ends_seconds:.2f} | {whole[name]:.1f}"
        memory = f"{cost.peak_gib:.2f} | {cost.peak_gib - cost.imports_gib:.2f}"
        print(f"| {name} | {times} | {whole[name] / whole['ours']:.2f} | {memory} | {cost.first_seconds:.0f} |")


if __name__ == "__main__":
    main()
