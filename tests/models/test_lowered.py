"""Inspects the program of the row gradient that JAX lowers for NVIDIA GPUs. The tests need no GPU."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from reversion_jax.inversion import networks
from reversion_jax.models import attention, normalisation
from reversion_jax.models.presets import SD15
from reversion_jax.weights.folder import parameter_shapes

# The first two levels of Stable Diffusion 1.5, which hold nearly all activations.
LEVELS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
UNET = dataclasses.replace(SD15.unet, block_out_channels=(320, 640), layers_per_block=1, **LEVELS)


@pytest.fixture(scope="module")
def program() -> str:
    """The program that computes the gradient with respect to the text states, as StableHLO text.

    The program takes two samples of 512 px in bfloat16 and is for a GPU of compute capability 8.
    """
    model = dataclasses.replace(SD15, unet=UNET)
    array = jax.ShapeDtypeStruct
    shapes = parameter_shapes(model)["unet"].items()
    weights = unflatten_dict({tuple(name.split("/")): array(shape, jnp.bfloat16) for name, shape in shapes})

    def loss(states, weights, latents, timesteps):
        return networks.predict({"unet": weights}, model, latents, timesteps, states).sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_capability", lambda: 8.0)
        patch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
        patch.setattr(cudnn, "check_compute_capability", lambda least: float(least) <= 8.0)
        of_states, latents = array((2, 77, 768), jnp.bfloat16), array((2, 64, 64, 4), jnp.float32)
        traced = jax.jit(jax.grad(loss)).trace(of_states, weights, latents, array((2,), jnp.int32))
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_attention_on_nvidia_gpus_stores_no_scores(program):
    """Checks self-attention and cross-attention. cuDNN needs the 77 tokens padded to 128.

    The layers have three sizes, and all layers of one size share one function in the program.
    """
    assert len(re.findall(r"custom_call @__cudnn\$fmhaSoftmax\(", program)) == 3 * 2
    assert "tensor<2x128x8x40xbf16>" in program
    for length in ("77", "128", "4096", "1024"):
        assert not re.search(rf"tensor<2x8x(4096|1024)x{length}xf32>", program), length


def test_the_backward_pass_of_feed_forward_layers_concatenates_nothing(program):
    """The program concatenates only skip connections [N, H, W, C] and the halves of the time embedding [N, C]."""
    joined = re.findall(r"stablehlo\.concatenate .* -> tensor<([\dx]+)x\w+>", program)
    assert joined
    assert {shape.count("x") + 1 for shape in joined} == {2, 4}


def passes(function, *arrays: np.ndarray) -> int:
    """Returns the number of consecutive passes that a function makes over arrays of the size of the first array.

    A pass ends at a reduction over the whole array, because the result is needed before the next pass can start. The
    final pass, which writes the output, counts as well.
    """
    size = arrays[0].size

    def after(jaxpr, depths):
        depth = dict(zip(jaxpr.invars, depths, strict=True))
        known = lambda x: depth.get(x, 0) if isinstance(x, jax.extend.core.Var) else 0
        for equation in jaxpr.eqns:
            inner = next((p for p in equation.params.values() if hasattr(p, "jaxpr")), None)
            before = [known(x) for x in equation.invars]
            if inner is not None:
                found = after(inner.jaxpr, before)
            else:
                whole = max(x.aval.size for x in equation.invars if hasattr(x, "aval")) == size
                is_sum = equation.primitive.name.startswith("reduce") and whole
                found = [max(before, default=0) + is_sum] * len(equation.outvars)
            depth.update(zip(equation.outvars, found, strict=True))
        return [known(x) for x in jaxpr.outvars]

    closed = jax.make_jaxpr(function)(*arrays)
    return 1 + max(after(closed.jaxpr, [0] * len(closed.jaxpr.invars)))


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_reads_its_input_twice_forward_and_twice_backward(silu):
    """The first pass computes the statistics, the second pass the result."""
    x, scale, bias = np.ones((2, 4, 4, 8), np.float32), np.ones(8, np.float32), np.ones(8, np.float32)
    how = (2, 1e-5, silu)
    forward = lambda x: normalisation._normalise(x, scale, bias, *how)
    assert passes(forward, x) == 2
    saved = normalisation._forward(x, scale, bias, *how)[1]
    assert passes(lambda gradient, x: normalisation._backward(*how, (x, *saved[1:]), gradient)[0], x, x) == 2


def test_the_helper_counts_three_passes_for_the_plain_formula():
    """The mean, the variance about the mean, and the result each take one pass."""

    def plain(x):
        centred = x - x.mean()
        return centred / jnp.sqrt(jnp.square(centred).mean())

    assert passes(plain, np.ones((4, 4))) == 3
