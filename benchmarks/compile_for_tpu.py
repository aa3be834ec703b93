"""Compiles a training step with Google's TPU compiler and prints the memory that it needs. The script needs no TPU.

    python -m venv tpu && tpu/bin/pip install -e . "jax[tpu]"
    tpu/bin/python benchmarks/compile_for_tpu.py --model miniature --resolution 64 --topology v5e:16x16
    tpu/bin/python benchmarks/compile_for_tpu.py --resolution 512 --topology v5e:2x4

The script does not run the step. It shows that the step compiles and fits into memory, but not how long a step takes.
The token table and the VAE are always float32. For SD 1.5 the script takes minutes and 8 GiB of memory.
"""

import argparse
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from weak_scaling import abstract_arguments

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import step
from reversion_jax.models.presets import SD15
from reversion_jax.runtime import precision
from reversion_jax.weights.folder import load_config
from reversion_jax.weights.resolve import MINIATURE_FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15", "miniature"])
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--topology", default="v5e:2x4", help="JAX's name of the chips and their layout")
    parser.add_argument("--samples", type=int, default=1, help="samples per chip")
    parser.add_argument("--weight_shards", type=int, default=1)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # JAX computes on the CPU; only the step is compiled for TPUs
    # On a machine with TPUs, the system would set these variables.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    chips = topologies.get_topology_desc(topology_name=options.topology, platform="tpu").devices
    mesh = Mesh(np.array(chips).reshape(-1, options.weight_shards), ("data", "weights"))
    model = {"sd15": SD15, "miniature": load_config(MINIATURE_FOLDER)}[options.model]
    samples = len(chips) * options.samples
    config = step.StepConfig(samples, 1, positives_per_sample=4, rows_per_token=1, remat=options.remat)
    arguments = abstract_arguments(model, options.resolution, 1, config, mesh, jnp.dtype(options.precision))

    start = time.perf_counter()
    one_step = partial(step.train_step, model=model, schedule=Schedule(), config=config, mesh=mesh)
    with jax.default_matmul_precision(precision.products(options.precision)):
        program = jax.jit(one_step).lower(*arguments).compile()
    memory = program.memory_analysis()
    print(f"{options.model}, {options.resolution} px, {options.precision}, remat {options.remat}:")
    print(f"{samples} samples on {len(chips)} chips of {options.topology}")
    print(f"compiled in {time.perf_counter() - start:.0f} s; on each chip")
    for what in ("argument", "temp", "peak_memory"):
        size = getattr(memory, f"{what}_in_bytes" if what.startswith("peak") else f"{what}_size_in_bytes")
        print(f"  {what:12} {size / 1e9:.3f} GB")


if __name__ == "__main__":
    main()
