import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn

from reversion_jax.models import attention, layers
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.convolution import convolve
from reversion_jax.models.unet import UNet


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_that_of_jax_nn(causal):
    query, key, value = (tiny.noise(i, (2, 6, 24)) for i in range(3))
    split = [x.reshape(2, 6, 3, 8) for x in (query, key, value)]
    wanted = jax.nn.dot_product_attention(*split, is_causal=causal).reshape(2, 6, 24)
    np.testing.assert_allclose(attention.attention(query, key, value, 3, causal), wanted, atol=1e-6)


def test_cross_attention_equals_that_of_jax_nn():
    query, key, value = tiny.noise(0, (2, 5, 8)), tiny.noise(1, (2, 3, 8)), tiny.noise(2, (2, 3, 8))
    split = [x.reshape(2, -1, 2, 4) for x in (query, key, value)]
    wanted = jax.nn.dot_product_attention(*split).reshape(2, 5, 8)
    np.testing.assert_allclose(attention.attention(query, key, value, heads=2), wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_over_long_inputs_and_its_gradients_equal_those_of_jax_nn(dtype):
    query, key, value, out = (jnp.asarray(tiny.noise(i, (2, 1100, 16)), dtype) for i in range(4))

    def wanted(*qkv):
        split = [x.reshape(2, 1100, 2, 8) for x in qkv]
        return jax.nn.dot_product_attention(*split).reshape(2, 1100, 16)

    theirs, their_back = jax.vjp(wanted, query, key, value)
    ours, our_back = jax.vjp(lambda *qkv: attention.attention(*qkv, heads=2), query, key, value)
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for found, expected in zip((ours, *our_back(out)), (theirs, *their_back(out)), strict=True):
        assert tiny.error(np.asarray(found, np.float32), np.asarray(expected, np.float32)) < tolerance


def test_the_backward_pass_of_long_attention_keeps_no_score_matrix():
    """The input has the size of SD 1.5's first level at 512 px.

    All temporary memory of the backward pass is less than an eighth of the score matrices of eight heads.
    """
    x = jax.ShapeDtypeStruct((1, 4096, 320), jnp.float32)
    grad = jax.grad(lambda x: attention.attention(x, x, x, heads=8).sum())
    compiled = jax.jit(grad).lower(x).compile()
    assert "4096,4096" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * 4096 * 4096 * 4 / 8


def test_group_norm_equals_that_of_flax():
    x = tiny.noise(0, (2, 3, 5, 12)) + np.arange(12)
    variables = {"params": {"scale": 1 + tiny.noise(1, (12,)), "bias": tiny.noise(2, (12,))}}
    found = layers.GroupNorm(num_groups=4, epsilon=1e-3).apply(variables, x)
    wanted = nn.GroupNorm(num_groups=4, epsilon=1e-3, use_fast_variance=False).apply(variables, x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_group_norm_is_precise_for_inputs_with_a_large_mean():
    norm = layers.GroupNorm(num_groups=2, epsilon=1e-6)
    x = tiny.noise(0, (1, 8, 8, 4))
    variables = norm.init(jax.random.key(0), x)
    # The formula E[x^2] - E[x]^2 would have an error of a few per cent here.
    np.testing.assert_allclose(norm.apply(variables, x + 1000), norm.apply(variables, x), atol=2e-3)


@pytest.mark.parametrize("channels", [6, 90], ids=["turned kernel", "product"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_convolution_and_its_gradients_equal_those_of_xla(channels, dtype):
    x, kernel, out = (
        jnp.asarray(tiny.noise(i, shape), dtype)
        for i, shape in enumerate([(2, 8, 5, channels), (3, 3, channels, 4), (2, 8, 5, 4)])
    )

    def plain(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)

    wanted, wanted_back = jax.vjp(plain, x, kernel)
    found, found_back = jax.vjp(lambda x, kernel: convolve(x, kernel, (1, 1), ((1, 1), (1, 1))), x, kernel)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for ours, theirs in zip((found, *found_back(out)), (wanted, *wanted_back(out)), strict=True):
        assert tiny.error(np.asarray(ours, np.float32), np.asarray(theirs, np.float32)) < tolerance


def test_the_timestep_embedding_is_cosines_then_sines():
    found = layers.timestep_embedding(jnp.array([0, 10]), 4)
    wanted = [[1, 1, 0, 0], [np.cos(10), np.cos(0.1), np.sin(10), np.sin(0.1)]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_upsampling_repeats_pixels_and_crops():
    up = layers.Upsample()
    x = tiny.noise(0, (1, 2, 3, 1))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    variables = {"params": {"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}
    wanted = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(up.apply(variables, x), wanted)
    np.testing.assert_allclose(up.apply(variables, x, (3, 5)), wanted[:, :3, :5])


def test_networks_in_bfloat16_are_near_those_in_float32(recorded):
    config, params, x = recorded.model.config, recorded.model.params, recorded.inputs
    unet = tiny.quick_jit(UNet(config.unet, jnp.bfloat16).apply)
    found = unet({"params": params["unet"]}, tiny.nhwc(x["latents"]), x["timesteps"], x["states"])
    assert found.dtype == jnp.float32
    assert tiny.error(tiny.nchw(found), recorded.outputs["unet"]) < 0.05
    text = tiny.quick_jit(CLIPTextEncoder(config.text, jnp.bfloat16).apply)(
        {"params": params["text_encoder"]}, x["ids"]
    )
    assert text.dtype == jnp.bfloat16
    assert tiny.error(np.asarray(text, np.float32), recorded.outputs["text"]) < 0.05


def test_ids_beyond_the_table_give_finite_embeddings_and_gradients(recorded):
    """Placeholders have ids beyond the table. Their rows are inserted after the look-up in the table."""
    text = CLIPTextEncoder(recorded.model.config.text)
    variables = {"params": recorded.model.params["text_encoder"]}
    ids = np.array([[598, 600, 605, 599]])
    embeddings = text.apply(variables, ids, method="embed")
    assert np.isfinite(embeddings).all()
    assert embeddings.shape == (1, 4, 32)

    def loss(row):
        spliced = jnp.where((ids >= 600)[..., None], row[None, None], text.apply(variables, ids, method="embed"))
        return text.apply(variables, spliced, method="encode").sum() ** 2

    assert np.isfinite(jax.grad(loss)(jnp.ones(32))).all()
