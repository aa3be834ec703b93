"""Helpers of the comparisons with PyTorch: random weights for SD 1.5, separate processes, memory, loops on CUDA."""

import contextlib
import importlib.util
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np


def torch_models(path: Path):
    """Returns the memory of the imports (GiB); the frozen text encoder, VAE and UNet; and the noise schedule."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, logging

    logging.disable_progress_bar()
    imports_gib = status_gib("VmRSS")
    text = CLIPTextModel.from_pretrained(path / "text_encoder")
    text.resize_token_embeddings(text.config.vocab_size + 1, mean_resizing=False)
    vae = AutoencoderKL.from_pretrained(path / "vae")
    unet = UNet2DConditionModel.from_pretrained(path / "unet")
    frozen = [network.requires_grad_(False) for network in (text, vae, unet)]
    return imports_gib, *frozen, DDPMScheduler.from_pretrained(path / "scheduler")


def status_gib(counter: str) -> float:
    """Returns this process's memory (VmRSS) or peak memory (VmHWM) in GiB, as Linux counts it.

    `getrusage` is not used, because its peak would include the memory of the parent process.
    """
    return int(re.search(rf"{counter}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20


def alone(function: Callable, *arguments) -> Any:
    """Calls a function in a new process, so that measurements share no memory and no compiled programs."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def write_weights(path: Path) -> None:
    """Writes a diffusers folder of SD 1.5 without a tokenizer. Its random weights keep the scale of activations."""
    from flax.traverse_util import unflatten_dict

    from reversion_jax.diffusion.schedule import Schedule
    from reversion_jax.models.presets import SD15
    from reversion_jax.weights import folder
    from reversion_jax.weights.save import save

    rng = np.random.default_rng(0)

    def array(name, shape):
        if name.endswith(("scale", "bias")):
            return np.full(shape, name.endswith("scale"), np.float32)
        scale = 0.02 if name.endswith("embedding") else np.prod(shape[:-1]) ** -0.5
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    params = {
        part: unflatten_dict({name: array(name, shape) for name, shape in shapes.items()}, sep="/")
        for part, shapes in folder.parameter_shapes(SD15).items()
    }
    save(path, folder.StableDiffusion(SD15, Schedule(), params, path / "tokenizer"), np.float32)


@contextlib.contextmanager
def weights(given: str | None) -> Iterator[Path]:
    """Yields the folder `given`, or a temporary folder with random weights if `given` is None."""
    if given:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as path:
        alone(write_weights, Path(path))
        yield Path(path)


def require_pytorch() -> None:
    missing = [name for name in ("torch", "diffusers", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"this compares with PyTorch and needs {', '.join(missing)}: install the 'interop' extra")


def cuda_step(place: Path, sizes: Any) -> dict[str, float]:
    """Measures a PyTorch step that trains only one row, on encoded pictures, in bfloat16, channels last."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    load = lambda kind, part: kind.from_pretrained(place / "model" / part, torch_dtype=torch.bfloat16).cuda()
    text, unet = load(CLIPTextModel, "text_encoder"), load(UNet2DConditionModel, "unet")
    unet.to(memory_format=torch.channels_last)
    for network in (text, unet):
        network.requires_grad_(False)
    row = torch.randn(text.config.hidden_size, device="cuda", requires_grad=True)
    text.get_input_embeddings().register_forward_hook(
        lambda module, arguments, found: torch.where((arguments[0] == 2)[..., None], row.to(found.dtype), found)
    )
    optimiser = torch.optim.AdamW([row], 2e-3)
    side = sizes.resolution // 8
    clean = torch.randn(sizes.samples, 4, side, side, device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(0, 9, (sizes.samples, 77), device="cuda")

    def one_step() -> None:
        noise, at = torch.randn_like(clean), torch.randint(0, 1000, (sizes.samples,), device="cuda")
        predicted = unet(clean + noise, at, text(ids).last_hidden_state).sample
        torch.nn.functional.mse_loss(predicted.float(), noise.float()).backward()
        optimiser.step()
        optimiser.zero_grad()

    return {
        "step_ms": 1e3 * _cuda_seconds(one_step, sizes.steps),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def cuda_pictures(place: Path, sizes: Any) -> dict[str, float]:
    """Measures drawing the pictures of the benchmark by diffusers' pipeline, in bfloat16, channels last."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(place / "model", torch_dtype=torch.bfloat16, safety_checker=None)
    pipe = pipe.to("cuda")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": sizes.sample_steps, "height": sizes.resolution, "width": sizes.resolution}
    draw = lambda: pipe(["red circle"] * sizes.pictures, guidance_scale=7.5, output_type="np", **how)
    return {"pictures_s": _cuda_seconds(draw, 2)}


def _cuda_seconds(run: Callable[[], Any], count: int) -> float:
    import torch

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count
