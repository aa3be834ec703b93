"""Compiles a training step, or drawing, with Google's TPU compiler, and prints the memory that it needs.

The script needs no TPU:

    python -m venv tpu && tpu/bin/pip install -e . "jax[tpu]"
    tpu/bin/python benchmarks/compile_for_tpu.py --model miniature --resolution 64 --topology v5e:16x16
    tpu/bin/python benchmarks/compile_for_tpu.py --resolution 512 --topology v5e:2x4
    tpu/bin/python benchmarks/compile_for_tpu.py --resolution 512 --topology v5e:2x2 --program drawing

The script does not run the program. It shows that the program compiles and fits into memory, but not how long it takes.
The token table and the VAE are always float32. For SD 1.5 the script takes minutes and 8 GiB of memory.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from weak_scaling import abstract_arguments

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.drawing import generate
from reversion_jax.inversion import step
from reversion_jax.models.presets import SD15, ModelConfig
from reversion_jax.runtime import precision
from reversion_jax.weights.folder import StableDiffusion, load_config
from reversion_jax.weights.resolve import MINIATURE_FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15", "miniature"])
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--topology", default="v5e:2x4", help="JAX's name of the chips and their layout")
    parser.add_argument("--program", default="step", choices=["step", "drawing"])
    parser.add_argument("--samples", type=int, default=1, help="samples, or pictures, per chip")
    parser.add_argument("--weight_shards", type=int, default=1)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # JAX computes on the CPU; only the program is compiled for TPUs
    # On a machine with TPUs, the system would set these variables.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    chips = topologies.get_topology_desc(topology_name=options.topology, platform="tpu").devices
    mesh = Mesh(np.array(chips).reshape(-1, options.weight_shards), ("data", "weights"))
    model = {"sd15": SD15, "miniature": load_config(MINIATURE_FOLDER)}[options.model]
    samples = len(chips) * options.samples
    start = time.perf_counter()
    with jax.default_matmul_precision(precision.products(options.precision)):
        lower = {"step": lower_step, "drawing": lower_drawing}[options.program]
        memory = lower(model, samples, mesh, options).compile().memory_analysis()
    print(f"{options.program} of {options.model}, {options.resolution} px, {options.precision}, remat {options.remat}:")
    print(f"{samples} samples on {len(chips)} chips of {options.topology}")
    print(f"compiled in {time.perf_counter() - start:.0f} s; on each chip")
    for what in ("argument", "temp", "peak_memory"):
        size = getattr(memory, f"{what}_in_bytes" if what.startswith("peak") else f"{what}_size_in_bytes")
        print(f"  {what:12} {size / 1e9:.3f} GB")


def lower_step(model: ModelConfig, samples: int, mesh: Mesh, options: Any) -> jax.stages.Lowered:
    config = step.StepConfig(samples, 1, positives_per_sample=4, rows_per_token=1, remat=options.remat)
    arguments = abstract_arguments(model, options.resolution, 1, config, mesh, jnp.dtype(options.precision))
    one_step = partial(step.train_step, model=model, schedule=Schedule(), config=config, mesh=mesh)
    return jax.jit(one_step).lower(*arguments)


def lower_drawing(model: ModelConfig, pictures: int, mesh: Mesh, options: Any) -> jax.stages.Lowered:
    """Lowers guided drawing by the sampler `pndm`, with all pictures in one batch."""
    config = step.StepConfig(1, 1, positives_per_sample=4, rows_per_token=1)
    params = abstract_arguments(model, options.resolution, 1, config, mesh, jnp.dtype(options.precision))[1]
    sd = StableDiffusion(model, Schedule(), params, Path(), products=precision.products(options.precision))
    how = generate.Sampling(resolution=options.resolution, batch_size=pictures)
    return generate.lower(sd, ["a prompt"], model.text.max_position_embeddings, 1, sampling=how)[-1]


if __name__ == "__main__":
    main()
