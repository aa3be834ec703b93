"""Measures training and drawing on this machine's GPU or TPU, at the size of Stable Diffusion 1.5 with random weights.

    python benchmarks/accelerator.py --out benchmarks/accelerator

The script measures our training step in each precision and with several numbers of samples per pass through the
networks. It measures the time of the step's kernels by kind, and the time to draw pictures. It also runs the command
`train`, first with an empty compilation cache and then with compiled programs in the cache. If PyTorch can use the same
GPU, the script also measures a well-written training loop in PyTorch and drawing by diffusers.

After each measurement the script writes accelerator.md and accelerator.json into the folder --out. After --minutes
minutes the script starts no further measurement, and lists the measurements that it left out. With --tiny the script
uses a small model and small pictures, for tests.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from beside_pytorch import alone, cuda_pictures, cuda_step, write_weights
from kernels import kernels

ROOT = Path(__file__).parents[1]
_TOGETHER = 10  # runs: the ten relations of the ReVersion Benchmark
PRECISIONS = ("bfloat16", "float16", "tensorfloat32", "float32")


class Sizes(NamedTuple):
    """The sizes of the model and the pictures, and the numbers of samples and steps, that a benchmark uses."""

    tiny: bool
    resolution: int
    samples: int  # per training step
    steps: int  # training steps that are timed, after the first step
    pictures: int
    sample_steps: int


FULL, TINY = Sizes(False, 512, 8, 20, 8, 50), Sizes(True, 16, 8, 2, 2, 2)


def write_model(folder: Path, sizes: Sizes) -> None:
    """Writes the miniature model if tiny, else SD 1.5 with random weights. The tokenizer knows all words used here."""
    from reversion_jax.weights.resolve import MINIATURE_FOLDER

    if sizes.tiny:
        shutil.copytree(MINIATURE_FOLDER, folder)
        (folder / "reversion_jax.json").unlink()
        return
    write_weights(folder)
    shutil.copytree(MINIATURE_FOLDER / "tokenizer", folder / "tokenizer")


def write_exemplars(folder: Path, sizes: Sizes) -> None:
    from reversion_jax.data import exemplars

    shape = (sizes.samples, sizes.resolution, sizes.resolution, 3)
    shown = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    exemplars.write_folder(folder, shown, [["red circle {} blue star"]] * sizes.samples)


def settings(place: Path, sizes: Sizes, **own: Any) -> dict[str, Any]:
    """Returns the settings of a run on the model and the exemplars in `place`."""
    words = {"prepositions": "miniature_prepositions", "verbs": "miniature_verbs"}
    files = {"model": str(place / "model"), "exemplars": str(place / "exemplars")}
    of_size = {"resolution": sizes.resolution, "sample_steps": sizes.sample_steps, "sample_batch": sizes.pictures}
    return {**words, **files, **of_size, "relation": "hug", "steps_per_dispatch": sizes.steps, **own}


def our_step(place: Path, sizes: Sizes, precision: str, at_once: int, runs: int = 1) -> dict[str, float]:
    """Measures our training step in one precision with `at_once` samples per pass; 0: as many as fit into memory.

    runs: number of runs that train together. Compare a step of ten runs with ten steps of one run.
    Returns the time of loading (s), of the first step (s) and of a later step (ms), and the peak memory (GiB). For the
    default precision and all samples in one pass, the result also has the time of each kind of kernel (ms per step).
    """
    import jax

    from reversion_jax import config
    from reversion_jax.runtime import precision as precisions
    from reversion_jax.training import prepare

    began = time.perf_counter()
    c = config.get_config()
    c.update(settings(place, sizes, precision=precision, samples_at_once=at_once))
    if runs > 1:
        c.runs = tuple({"seed": seed} for seed in range(runs))
    job = prepare.prepare(prepare.settle(c), compile_ahead=True)
    loaded = time.perf_counter() - began

    def steps(state: Any, count: int) -> tuple[Any, float]:
        start = time.perf_counter()
        state, _ = prepare.advance(job, state, count, sizes.steps)
        jax.block_until_ready(state.rows)
        return state, time.perf_counter() - start

    state, _ = steps(prepare.first_state(job), 1)
    found = {"loaded_s": loaded, "first_step_s": time.perf_counter() - began}
    timed = []
    for _ in range(3):
        state, seconds = steps(state, sizes.steps)
        timed.append(seconds / sizes.steps)
    found |= {"step_ms": 1e3 * statistics.median(timed), "peak_gib": _peak_gib()}
    if (precision, at_once) == (precisions.of_device(jax.devices()[0]), sizes.samples):
        found |= {"kernels_ms": kernels(lambda: steps(state, sizes.steps), sizes.steps)}
    return found


def start_up(place: Path, sizes: Sizes, cache: str, name: str) -> dict[str, Any]:
    """Runs the command `train` with two previews. Returns the seconds until the first step and until the end.

    Also returns when each part of the start began and ended, in seconds since `train` began to work in its folder.
    """
    own = settings(place, sizes, steps=sizes.steps, checkpoint_every_steps=sizes.steps, steps_per_dispatch=1)
    overrides = [f"--config.{key}={value}" for key, value in own.items()]
    workdir = place / name
    command = [sys.executable, "-m", "reversion_jax.train", "--config", str(ROOT / "configs" / "hug.py"), *overrides]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    metrics, first, log = workdir / "metrics.jsonl", 0.0, place / f"{name}.log"
    with log.open("wb") as out:  # a file, because with a pipe the command would stop when the pipe is full
        command += ["--workdir", str(workdir)]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if not first and metrics.exists() and metrics.stat().st_size:
                first = time.perf_counter() - began
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(log.read_text(errors="replace")[-1000:])
    parts = json.loads((workdir / "startup.json").read_text())
    parts = {f"{name} from {start:.1f} to": end for name, (start, end) in parts.items()}
    whole = time.perf_counter() - began
    return {"first_step_s": first or whole, "whole_s": whole, "parts_s": parts}


def our_pictures(place: Path, sizes: Sizes) -> dict[str, float]:
    """Measures the seconds to draw a batch of guided pictures with the sampler `ddim`. `first_s` includes compiling."""
    from reversion_jax.drawing import generate
    from reversion_jax.weights.load import load_model

    sd, tokenizer, _ = load_model(str(place / "model"))
    how = generate.Sampling(sizes.sample_steps, 7.5, sizes.resolution, "ddim", batch_size=sizes.pictures)

    def draw() -> float:
        began = time.perf_counter()
        generate.draw(sd, tokenizer, ["red circle"] * sizes.pictures, list(range(sizes.pictures)), sampling=how)
        return time.perf_counter() - began

    first = draw()
    return {"first_s": first, "pictures_s": min(draw() for _ in range(3)), "peak_gib": _peak_gib()}


def _peak_gib() -> float:
    """Returns the peak of this process's device memory (GiB), or nan if the device does not report it."""
    import jax

    told = jax.devices()[0].memory_stats() or {}
    return told.get("peak_bytes_in_use", float("nan")) / 2**30


def about() -> dict[str, Any]:
    """Returns the device, JAX's version, the default precision, and whether PyTorch can use a GPU."""
    import jax

    from reversion_jax.runtime import precision

    try:
        import diffusers  # noqa: F401
        import torch

        beside = torch.cuda.is_available()
    except ImportError:
        beside = False
    device = jax.devices()[0]
    return {"device": device.device_kind, "jax": jax.__version__, "auto": precision.of_device(device), "torch": beside}


def measures(place: Path, sizes: Sizes, told: dict[str, Any]) -> dict[str, tuple[Callable, tuple]]:
    """Returns all measurements as {name: (function, further arguments)}, the most important measurement first."""
    cache = str(place / "cache")
    best = told["auto"]
    found: dict[str, tuple[Callable, tuple]] = {
        f"step, {best}, {sizes.samples} at once": (our_step, (best, sizes.samples)),
        "command, nothing cached": (start_up, (cache, "cold")),
        "command, programs kept": (start_up, (cache, "kept")),
        "pictures": (our_pictures, ()),
        f"step of {_TOGETHER} runs together, {best}": (our_step, (best, 0, _TOGETHER)),
    }
    if told["torch"]:
        found |= {"step, PyTorch": (cuda_step, ()), "pictures, diffusers": (cuda_pictures, ())}
    splits = [(name, sizes.samples) for name in PRECISIONS] + [(best, 4), (best, 2), ("float32", 2)]
    for name, at_once in splits[:1] if sizes.tiny else splits:
        found.setdefault(f"step, {name}, {at_once} at once", (our_step, (name, at_once)))
    return found


def table(told: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    lines = [f"{told['device']}, jax {told['jax']}, {time.strftime('%Y-%m-%d')}", "", "| | |", "|---|---|"]
    for name, found in results.items():
        shown = found if isinstance(found, str) else ", ".join(_shown(key, value) for key, value in found.items())
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines) + "\n"


def _shown(key: str, value: Any) -> str:
    if isinstance(value, dict):
        unit = key.rpartition("_")[2]
        return ", ".join(f"{part} {number:.1f} {unit}" for part, number in value.items())
    return f"{key.rpartition('_')[0].replace('_', ' ')} {value:.2f} {key.rpartition('_')[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/accelerator"))
    parser.add_argument("--minutes", type=float, default=7.0, help="start no measurement after this time")
    parser.add_argument("--tiny", action="store_true", help="use small sizes, for tests")
    options = parser.parse_args()
    sizes, ends = TINY if options.tiny else FULL, time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    told, results = alone(about), {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        alone(write_model, place / "model", sizes)
        alone(write_exemplars, place / "exemplars", sizes)
        for name, (measure, arguments) in measures(place, sizes, told).items():
            if time.monotonic() > ends:
                results[name] = "not measured: no time was left"
            else:
                try:
                    results[name] = alone(measure, place, sizes, *arguments)
                except Exception as error:  # a failed measurement does not stop the other measurements
                    results[name] = f"failed: {str(error).strip().splitlines()[-1][:200]}"
            (options.out / "accelerator.json").write_text(json.dumps({"about": told, "results": results}, indent=1))
            (options.out / "accelerator.md").write_text(table(told, results))
            print(f"{name}: {results[name]}", flush=True)
    print(table(told, results))


if __name__ == "__main__":
    main()
