"""Measures the time, memory and work of a forward pass and of a row's gradient of SD 1.5's UNet.

    python benchmarks/unet_sd15.py --batch_size 2 --resolution 256

The variant "XLA's own" has plain convolutions and stores attention scores. The variant "ours" is what the package runs.
The variant "remat" computes activations again in the backward pass. All variants run in one process, in turn, three
times; the fastest time counts. On a CPU, XLA schedules for speed, which needs more temporary memory. The flag
XLA_FLAGS=--xla_cpu_enable_concurrency_optimized_scheduler=false makes XLA schedule for little memory, as XLA always
does on GPUs and TPUs. The weights are random. The script needs 8 GiB of memory. With --compile_only the script compiles
the programs and does not run them.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from reversion_jax.models import attention, convolution, unet
from reversion_jax.models.presets import SD15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--compile_only", action="store_true")
    options = parser.parse_args()
    n, side = options.batch_size, options.resolution // 8
    shapes = jax.eval_shape(
        unet.UNet(SD15.unet).init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 77, 768))
    )
    rng = np.random.default_rng(0)

    def array(shape, scale=1.0):
        if options.compile_only:
            return jax.ShapeDtypeStruct(shape, jnp.float32)
        return jnp.asarray(scale * rng.standard_normal(shape, np.float32))

    params = jax.tree.map(lambda leaf: array(leaf.shape, 0.02), shapes)
    arguments = params, array((n, side, side, 4)), array((n,)), array((n, 77, 768))

    programs = {}
    long, forms = attention._LONG, (convolution._as_product, convolution._with_turned_kernel)
    for name, remat in (("XLA's own", False), ("ours", False), ("ours, remat", True)):
        own = name == "XLA's own"
        attention._LONG = 10**9 if own else long
        convolution._as_product, convolution._with_turned_kernel = (convolution._convolve,) * 2 if own else forms
        jax.clear_caches()  # JAX keeps the traces of repeated layers, with the functions as they were then
        apply = unet.UNet(SD15.unet, remat=remat).apply
        forward = lambda *arguments, apply=apply: apply(*arguments)
        gradient = jax.grad(lambda *arguments, apply=apply: jnp.sum(jnp.square(apply(*arguments))), argnums=3)
        for kind, function in (("forward", forward), ("row gradient", gradient)):
            start = time.perf_counter()
            programs[kind, name] = jax.jit(function).lower(*arguments).compile()
            print(f"{kind}, {name}: compiled in {time.perf_counter() - start:.0f} s", flush=True)

    best = dict.fromkeys(programs, float("inf"))
    for _ in range(0 if options.compile_only else 3):
        for key, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            best[key] = min(best[key], time.perf_counter() - start)
    print(f"batch {n}, {options.resolution} px, float32, {jax.devices()[0].device_kind}")
    print("| | seconds | temporary GiB | TFLOP by XLA's count | GB accessed by XLA's count |\n|---|---|---|---|---|")
    for (kind, name), program in programs.items():
        temporary = program.memory_analysis().temp_size_in_bytes / 2**30
        cost = program.cost_analysis()
        counted = f"{cost['flops'] / 1e12:.3f} | {cost['bytes accessed'] / 1e9:.1f}"
        print(f"| {kind}, {name} | {best[kind, name]:.2f} | {temporary:.2f} | {counted} |")


if __name__ == "__main__":
    main()
