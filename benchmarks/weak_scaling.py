"""Measures weak scaling without a cluster: work and communication per device for a growing number of devices.

    python benchmarks/weak_scaling.py --resolution 256
    python benchmarks/weak_scaling.py --model miniature --resolution 64

The script compiles a training step of one micro-batch for simulated CPU devices, with the same number of samples per
device. The script does not run the step: it reads the work and the communication of one device from the compiled
program. With `--weight_shards n`, each group of n devices shares one copy of the weights. Attention has no loops here,
because XLA counts the body of a loop only once. For SD 1.5 the script needs 8 GiB of memory.

Then the script computes the times on a TPU v5e pod from Google's figures for the chip (cloud.google.com/tpu/docs/v5e).
The script measures no time.
"""

import argparse
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.inversion import step
from reversion_jax.inversion.arrays import Data
from reversion_jax.models import attention
from reversion_jax.models.presets import SD15, ModelConfig
from reversion_jax.runtime import parallel
from reversion_jax.weights.folder import load_config, parameter_shapes
from reversion_jax.weights.resolve import MINIATURE_FOLDER

EXEMPLARS, WORDS = 8, 56
CHIPS = 256  # the number of chips in a v5e pod, which is a torus of 16 x 16 chips
PEAK = 197e12  # FLOP/s in bfloat16
MEMORY_BANDWIDTH = 819e9  # bytes/s
LINK_BANDWIDTH = 200e9  # bytes/s that a chip receives from all four neighbours (1600 Gbit/s)
HOP_SECONDS = 1e-6  # our assumption
HOPS = 2 * (16 // 2) * 2  # the way to the opposite chip and back, along both rings of the torus


class Account(NamedTuple):
    """Work and communication of one device in one step."""

    work: float  # FLOP
    gathered: int  # bytes of the arrays that devices gather, including this device's own part
    summed: int  # bytes that are summed over devices


def abstract_arguments(
    model: ModelConfig, resolution: int, runs: int, config: step.StepConfig, mesh: Mesh, dtype=jnp.float32
):
    """Returns the shapes of a step's state, params, data and hyperparameters, with their places on the mesh.

    The text encoder and the UNet are in `dtype`; the token table and the VAE are float32.
    """
    side, length = resolution // model.vae.downscale, model.text.max_position_embeddings
    of = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)
    posterior = of(jnp.float32, runs, EXEMPLARS, side, side, model.vae.latent_channels)
    data = Data(
        mean=posterior,
        std=posterior,
        num_exemplars=of(jnp.int32, runs),
        ids=of(jnp.int32, runs, EXEMPLARS, 1, 2, length),
        is_negative=of(bool, runs, EXEMPLARS, 1, 2, length),
        num_templates=of(jnp.int32, runs, EXEMPLARS),
        prepositions=of(jnp.int32, WORDS, 1),
        verbs=of(jnp.int32, WORDS, 1),
        vocabulary=of(jnp.int32, runs, WORDS),
        num_vocabulary=of(jnp.int32, runs),
    )
    hyper = {name: of(jnp.float32, runs) for name in step.Hyperparameters._fields} | {"seed": of(jnp.uint32, runs)}
    state = jax.eval_shape(partial(step.init_state, config=config), of(jnp.float32, runs, 2, model.text.hidden_size))
    kept = lambda part, path: jnp.float32 if part == "vae" or path.endswith("token_embedding/embedding") else dtype
    params = {
        part: unflatten_dict({path: of(kept(part, path), *shape) for path, shape in shapes.items()}, sep="/")
        for part, shapes in parameter_shapes(model).items()
    }
    laid = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state, data, hyper = jax.tree.map(partial(laid, sharding=whole), (state, data, step.Hyperparameters(**hyper)))
    return state, jax.tree.map(laid, params, parallel.shardings(params, mesh)), data, hyper


def account(model: ModelConfig, resolution: int, runs: int, batch_size: int, mesh: Mesh) -> Account:
    """Compiles a step of one micro-batch of `runs` x `batch_size` samples and reads the cost from the program."""
    remat = mesh.shape["weights"] > 1
    config = step.StepConfig(batch_size, 1, positives_per_sample=4, rows_per_token=1, remat=remat)
    one_step = partial(step.train_step, model=model, schedule=Schedule(), config=config, mesh=mesh)
    program = jax.jit(one_step).lower(*abstract_arguments(model, resolution, runs, config, mesh)).compile()
    found = parallel.collectives(program.as_text())
    if unknown := {kind for kind, _ in found} - {"all-reduce", "all-gather"}:
        raise RuntimeError(f"the compiled program has collectives that this script does not count: {unknown}")
    sums = {kind: sum(size for other, size in found if other == kind) for kind in ("all-reduce", "all-gather")}
    return Account(program.cost_analysis()["flops"], sums["all-gather"], sums["all-reduce"])


def on_paper(model: ModelConfig, found: Account) -> str:
    """Returns a Markdown table of times on the pod, computed from an account and the pod's figures."""
    networks = parameter_shapes(model)
    size = lambda part: sum(map(math.prod, networks[part].values()))
    read = 2 * (2 * size("unet") + size("text_encoder"))  # bytes in bfloat16; forward and backward pass read the UNet
    rows = {
        f"computing, at the peak of {PEAK / 1e12:.0f} TFLOP/s": found.work / PEAK,
        f"reading the weights, at {MEMORY_BANDWIDTH / 1e9:.0f} GB/s": read / MEMORY_BANDWIDTH,
        f"gathering and summing, at {LINK_BANDWIDTH / 1e9:.0f} GB/s": (found.gathered + 2 * found.summed)
        / LINK_BANDWIDTH,
        f"waiting for {HOPS} hops, twice, at {HOP_SECONDS * 1e6:.0f} µs": 2 * HOPS * HOP_SECONDS,
    }
    return "\n".join(["| computed | ms |", "|---|---|", *(f"| {what} | {1e3 * s:.4f} |" for what, s in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", choices=["sd15", "miniature"])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--samples", type=int, default=1, help="samples per device")
    parser.add_argument("--runs", type=int, default=32, help="runs in the pod's row, which share its samples")
    parser.add_argument(
        "--weight_shards",
        type=int,
        nargs="*",
        default=[8],
        help="numbers of weight shards of further rows, with eight devices",
    )
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", CHIPS)
    attention._LONG = 10**9
    model = {"sd15": SD15, "miniature": load_config(MINIATURE_FOLDER)}[options.model]

    print(f"{options.model}, {options.resolution} px, {options.samples} samples per device, float32, compiled only\n")
    print("| devices | runs | samples | weight shards | GFLOP per device | gathered, kB | summed, kB |")
    print("|---|---|---|---|---|---|---|")
    rows = [(n, 1, 1) for n in (1, 2, 4, 8)] + [(8, 1, shards) for shards in options.weight_shards]
    for devices, runs, shards in [*rows, (CHIPS, options.runs, 1)]:
        samples = devices * options.samples
        mesh = parallel.make_mesh(samples, devices, shards)
        found = account(model, options.resolution, runs, samples // runs, mesh)
        passes = f"{found.gathered / 1e3:,.1f} | {found.summed / 1e3:.1f}"
        print(f"| {devices} | {runs} | {samples} | {shards} | {found.work / 1e9:,.2f} | {passes} |", flush=True)
    print(f"\nA step of the last row on {CHIPS} chips of TPU v5e:\n\n{on_paper(model, found)}")


if __name__ == "__main__":
    main()
