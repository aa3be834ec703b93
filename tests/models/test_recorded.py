"""Compares with outputs of diffusers and transformers that recorded/make_recorded.py stored. Needs no PyTorch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn

from reversion_jax.diffusion import guidance
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.models import clip, layers, transformer, unet, vae
from reversion_jax.models.attention import attention
from reversion_jax.weights import folder, names

# Upper bound of the relative errors. The measured errors are 3e-8 to 1e-6. Each mistake that a test below makes gives
# an error of at least 1.6e-5.
TOLERANCE = 4e-6


def test_the_recorded_inputs_equal_the_inputs_made_from_the_seed(recorded):
    for name, array in tiny.inputs(seed=50).items():
        np.testing.assert_allclose(array, recorded.inputs[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", tiny.OUTPUTS)
def test_outputs_equal_the_recorded_outputs_of_pytorch(name, recorded):
    found = tiny.output(name, recorded.model, recorded.inputs)
    assert tiny.error(found, recorded.outputs[name]) < TOLERANCE


def _error_of(name, recorded, model=None):
    found = tiny.mistaken_output(name, model or recorded.model, recorded.inputs)
    return tiny.error(found, recorded.outputs[name])


class SwappedGEGLU(nn.Module):
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        gate, value = jnp.split(layers.Dense(2 * self.width, name="proj")(x), 2, axis=-1)
        return value * nn.gelu(gate, approximate=False)


class BilinearUpsample(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, size=None):
        n, h, w, c = x.shape
        return layers.Conv3x3(c, name="conv")(jax.image.resize(x, (n, 2 * h, 2 * w, c), "bilinear"))


def sin_cos(timesteps, width):
    return jnp.roll(layers.timestep_embedding(timesteps, width), width // 2, axis=-1)


def shifted_frequencies(timesteps, width):
    angles = timesteps[:, None] * 1e-4 ** jnp.linspace(0, 1, width // 2)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def padded(*padding):
    return lambda _, dtype, name: layers.Downsample(padding, dtype, name=name)


def transformer_norm(epsilon, **kwargs):
    return layers.GroupNorm(epsilon=1e-5 if epsilon == 1e-6 else epsilon, **kwargs)


def acausal(query, key, value, heads, causal):
    return attention(query, key, value, heads)


def unscaled(query, key, value, heads):
    return attention(query * (query.shape[-1] // heads) ** 0.5, key, value, heads)


def heads_of_8(query, key, value, heads):
    return attention(query, key, value, query.shape[-1] // 8)


CODE = {
    "text: erf GELU": ("text", clip, "ACTIVATIONS", {"quick_gelu": functools.partial(nn.gelu, approximate=False)}),
    "text: no causal mask": ("text", clip, "attention", acausal),
    "text: no positions": ("text", clip._Embeddings, "add_positions", lambda self, x: x),
    "unet: GEGLU halves": ("unet", transformer, "_GEGLU", SwappedGEGLU),
    "unet: tanh GELU": ("unet", transformer.nn, "gelu", lambda x, approximate: jax.nn.gelu(x, approximate=True)),
    "unet: [sin, cos]": ("unet", unet, "timestep_embedding", sin_cos),
    "unet: freq_shift 1": ("unet", unet, "timestep_embedding", shifted_frequencies),
    "unet: asymmetric padding": ("unet", unet, "Downsample", padded(0, 1)),
    "unet: bilinear upsampling": ("unet", unet, "Upsample", BilinearUpsample),
    "unet: unscaled attention": ("unet", transformer, "attention", unscaled),
    "unet: heads of 8": ("unet", transformer, "attention", heads_of_8),
    "unet: Transformer2D epsilon 1e-5": ("unet", transformer, "GroupNorm", transformer_norm),
    "unet: LayerNorm epsilon 1e-6": (
        "unet",
        transformer,
        "LayerNorm",
        functools.partial(nn.LayerNorm, epsilon=1e-6),
    ),
    "vae: epsilon 1e-5, encoder": ("vae_mean", vae, "_EPSILON", 1e-5),
    "vae: epsilon 1e-5, decoder": ("vae_decoded", vae, "_EPSILON", 1e-5),
    "vae: symmetric padding": ("vae_mean", vae, "Downsample", padded(1, 1)),
    "vae: bilinear upsampling": ("vae_decoded", vae, "Upsample", BilinearUpsample),
    "vae: unscaled attention": ("vae_mean", vae, "attention", unscaled),
    "sampling: other order": ("trajectory", guidance, "combine", lambda u, c, scale: c + scale * (u - c)),
    "sampling: steps_offset 0": ("trajectory", tiny, "Schedule", functools.partial(Schedule, steps_offset=0)),
    "sampling: alpha one": (
        "trajectory",
        tiny,
        "Schedule",
        functools.partial(Schedule, set_alpha_to_one=True),
    ),
    "sampling: linear betas": (
        "trajectory",
        tiny,
        "Schedule",
        functools.partial(Schedule, beta_schedule="linear"),
    ),
}


@pytest.mark.parametrize("mistake", CODE)
def test_a_mistake_in_the_code_exceeds_the_tolerance(mistake, recorded, monkeypatch):
    name, owner, attribute, replacement = CODE[mistake]
    monkeypatch.setattr(owner, attribute, replacement)
    assert _error_of(name, recorded) > 2 * TOLERANCE


CONFIGS = {
    "text: epsilon 1e-6": ("text", "text", {"layer_norm_eps": 1e-6}),
    "text: heads of 4": ("text", "text", {"num_attention_heads": 8}),
    "unet: epsilon 1e-6": ("unet", "unet", {"norm_eps": 1e-6}),
    "unet: four heads": ("unet", "unet", {"attention_head_dim": 4}),
    "unet: other groups": ("unet", "unet", {"norm_num_groups": 16}),
    "vae: other groups": ("vae_mean", "vae", {"norm_num_groups": 8}),
    "vae: not scaled": ("vae_std", "vae", {"scaling_factor": 1.0}),
    "vae: not unscaled": ("vae_decoded", "vae", {"scaling_factor": 1.0}),
}


@pytest.mark.parametrize("mistake", CONFIGS)
def test_a_mistake_in_the_config_of_a_network_exceeds_the_tolerance(mistake, recorded):
    name, part, changes = CONFIGS[mistake]
    config = recorded.model.config
    config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})
    assert _error_of(name, recorded, recorded.model._replace(config=config)) > 2 * TOLERANCE


def square_untransposed(path, array):
    square = array.ndim == 2 and array.shape[0] == array.shape[1] and path.endswith("kernel")
    return array if square else from_torch(path, array)


def width_before_height(path, array):
    array = from_torch(path, array)
    return array.swapaxes(0, 1) if array.ndim == 4 else array


from_torch = names.from_torch
SWAPPED = {**names._RENAMED, "query": "to_k", "key": "to_q"}
WEIGHTS = {
    "text: not transposed": ("text", "from_torch", square_untransposed),
    "unet: not transposed": ("unet", "from_torch", square_untransposed),
    "unet: convolution WHIO": ("unet", "from_torch", width_before_height),
    "vae: not transposed": ("vae_mean", "from_torch", square_untransposed),
    "vae: convolution WHIO": ("vae_decoded", "from_torch", width_before_height),
    "vae: query for key": ("vae_mean", "_RENAMED", SWAPPED),
}


@pytest.mark.parametrize("mistake", WEIGHTS)
def test_a_mistake_in_reading_weights_exceeds_the_tolerance(mistake, recorded, monkeypatch):
    name, attribute, replacement = WEIGHTS[mistake]
    monkeypatch.setattr(names, attribute, replacement)
    found = tiny.output(name, folder.load(recorded.folder), recorded.inputs)
    assert tiny.error(found, recorded.outputs[name]) > 2 * TOLERANCE
