"""Compares our outputs with those of the last releases of diffusers and transformers that had Flax classes.

The recorded model is in shared/fixtures. The model reads 77 tokens and has PNDM's scheduler files. The tests read a
folder of the model with PyTorch's weights, and another folder with Flax's weights.
"""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from jax.experimental import io_callback

from reversion_jax.diffusion import samplers
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.unet import UNet
from reversion_jax.models.vae import VAE
from reversion_jax.weights import folder, names


@pytest.fixture(scope="module", params=["torch_sd_tiny", "flax_sd_tiny"])
def model(sd_tiny, request):
    return folder.load(sd_tiny / request.param)


@pytest.fixture(scope="module")
def reference(sd_tiny):
    with np.load(sd_tiny / "reference.npz") as arrays:
        return dict(arrays)


def assert_close(found, wanted, tolerance):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def test_text_states_equal_the_recorded_text_states(model, reference):
    found = CLIPTextEncoder(model.config.text).apply({"params": model.params["text_encoder"]}, reference["input_ids"])
    assert_close(found, reference["text_last_hidden_state_torch"], 1e-5)


@pytest.mark.parametrize("prefix", ["unet", "unet_rect"])
def test_unet_outputs_equal_the_recorded_unet_outputs(prefix, model, reference):
    latents, timesteps, states = (reference[f"{prefix}_{name}"] for name in ("latents", "timesteps", "hidden_states"))
    unet = tiny.quick_jit(UNet(model.config.unet).apply)
    found = unet({"params": model.params["unet"]}, tiny.nhwc(latents), timesteps, states)
    assert_close(tiny.nchw(found), reference[f"{prefix}_noise_pred_torch"], 2e-5)


@pytest.mark.parametrize("kind", ["grad", "ti_grad"])
def test_the_row_gradient_equals_the_recorded_row_gradient(kind, model, reference):
    x = {name: reference[f"{kind}_{name}"] for name in ("input_ids", "row_id", "row_torch", "loss_torch")}
    text, unet = CLIPTextEncoder(model.config.text), UNet(model.config.unet)
    noisy, noise = (tiny.nhwc(reference[f"grad_{name}"]) for name in ("noisy_latents", "noise"))

    def loss(row, text_params, unet_params):
        embeddings = text.apply({"params": text_params}, x["input_ids"], method="embed")
        embeddings = jnp.where((x["input_ids"] == x["row_id"])[..., None], row[None, None], embeddings)
        states = text.apply({"params": text_params}, embeddings, method="encode")
        predicted = unet.apply({"params": unet_params}, noisy, reference["grad_timesteps"], states)
        return jnp.mean((predicted - noise) ** 2)

    params = model.params["text_encoder"], model.params["unet"]
    row = params[0]["text_model"]["embeddings"]["token_embedding"]["embedding"][int(reference["ti_initializer_id"])]
    value, gradient = tiny.quick_jit(jax.value_and_grad(loss))(row, *params)
    assert tiny.error(value, x["loss_torch"]) < 1e-5
    assert tiny.error(gradient, x["row_torch"]) < 1e-4


def test_the_pytorch_and_the_flax_folder_give_the_same_model(sd_tiny):
    a, b = (folder.load(sd_tiny / name) for name in ("torch_sd_tiny", "flax_sd_tiny"))
    assert a[:2] == b[:2]
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_vae_outputs_equal_the_recorded_vae_outputs(model, reference):
    vae, scale = VAE(model.config.vae), model.config.vae.scaling_factor
    variables = {"params": model.params["vae"]}
    mean, std = vae.apply(variables, tiny.nhwc(reference["vae_image"]), method="encode")
    assert_close(tiny.nchw(mean) / scale, reference["vae_mean_torch"], 1e-5)
    assert_close(2 * np.log(tiny.nchw(std) / scale), reference["vae_logvar_torch"], 1e-5)
    decoded = vae.apply(variables, scale * tiny.nhwc(reference["vae_latents"]), method="decode")
    assert_close(tiny.nchw(decoded), reference["vae_decoded_torch"], 1e-5)


def test_the_schedule_equals_the_recorded_schedule(model, reference):
    schedule = model.schedule
    np.testing.assert_allclose(schedule.alphas_cumprod, reference["sched_alphas_cumprod"], rtol=1e-6)
    noised = schedule.add_noise(reference["sched_samples"], reference["sched_noise"], reference["sched_timesteps"])
    assert_close(noised, reference["sched_add_noise"], 2e-6)
    schedule = dataclasses.replace(schedule, prediction_type="v_prediction")
    velocity = schedule.training_target(
        reference["sched_samples"], reference["sched_noise"], reference["sched_timesteps"]
    )
    assert_close(velocity, reference["sched_velocity"], 2e-6)


def walk(name, schedule, steps, start, outputs):
    """Runs a sampler on a model that returns `outputs` in turn. Returns the model's inputs and the final latents."""
    calls, outputs = [], iter(outputs)

    def model(latents, timesteps):
        calls.append((np.array(latents), int(timesteps[0])))
        return next(outputs)

    def denoiser(latents, timesteps):
        return io_callback(model, latents, latents, timesteps, ordered=True)

    end = jax.jit(lambda noise: samplers.get(name)(denoiser, noise, schedule, steps, None))(start)
    return *zip(*calls, strict=True), end


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_sampler_steps_equal_the_recorded_sampler_steps(name, model, reference):
    start, outputs = reference[f"{name}_step_start"], reference[f"{name}_step_model_outputs"]
    latents, timesteps, end = walk(name, model.schedule, 5, start, outputs)
    assert list(timesteps) == reference[f"{name}_timesteps_5"].tolist()
    for found, wanted in zip([*latents[1:], end], reference[f"{name}_step_samples_torch"], strict=True):
        assert tiny.error(found, wanted) < 1e-6
    _, timesteps, _ = walk(name, model.schedule, 50, start, itertools.repeat(start))
    assert list(timesteps) == reference[f"{name}_timesteps_50"].tolist()


@pytest.mark.parametrize("kind", ["", "tricky_"])
def test_token_ids_equal_the_recorded_token_ids(kind, sd_tiny, reference):
    tokenizer = Tokenizer.load(sd_tiny / "torch_sd_tiny" / "tokenizer", vocab_size=1000, length=77)
    found = tokenizer([str(prompt) for prompt in reference[f"{kind}prompts"]])
    assert found.tolist() == reference[f"{kind}input_ids"].tolist()


def test_token_ids_with_a_placeholder_equal_the_recorded_token_ids(sd_tiny, reference):
    path = sd_tiny / "torch_sd_tiny" / "tokenizer"
    tokenizer = Tokenizer.load(path, {"<cat-toy>": 1}, vocab_size=1000, length=77)
    found = tokenizer([str(prompt) for prompt in reference["ti_prompts"]])
    assert found.tolist() == reference["ti_input_ids"].tolist()


def test_every_parameter_has_the_recorded_name_and_shape(sd_tiny, model):
    table = json.loads((sd_tiny / "name_map.json").read_text())
    for part, rows in table.items():
        ours = flatten_dict(model.params[part], sep="/")
        assert {path: list(array.shape) for path, array in ours.items()} == {path: shape for path, shape, *_ in rows}
        for path, _, torch_name, torch_shape in rows:
            assert names.torch_names(path)[0] == torch_name
            assert list(names.to_torch(path, ours[path]).shape) == torch_shape
