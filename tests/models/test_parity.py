"""Compares our networks with the PyTorch classes of the installed diffusers and transformers."""

import numpy as np
import pytest
import tiny

from reversion_jax.models import presets
from reversion_jax.weights import folder, names
from reversion_jax.weights.save import save

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
torch_tiny = pytest.importorskip("torch_tiny")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    shapes = torch_tiny.shapes(tmp_path_factory.mktemp("empty"))
    return folder.load(tiny.write_folder(tmp_path_factory.mktemp("parity"), tiny.torch_weights(shapes, seed=2)))


@pytest.fixture(scope="module")
def saved(ours, tmp_path_factory):
    """The folder that our `save` writes. PyTorch reads this folder, so every comparison tests the export too."""
    path = tmp_path_factory.mktemp("saved")
    save(path, ours, np.float32)
    return path


@pytest.fixture(scope="module")
def inputs():
    return tiny.inputs(seed=90)


@pytest.fixture(scope="module")
def theirs(saved, inputs):
    return torch_tiny.outputs(torch_tiny.pipeline(saved), inputs)


@pytest.mark.parametrize("name", tiny.OUTPUTS)
def test_outputs_of_networks_equal_those_of_pytorch(name, ours, theirs, inputs):
    assert tiny.error(tiny.output(name, ours, inputs), theirs[name]) < 1e-5


def test_diffusers_pipeline_reads_prompts_like_our_tokenizer(ours, saved, inputs):
    from reversion_jax.models.tokenizer import Tokenizer

    pipe = torch_tiny.pipeline(saved)
    prompts = ["photo of cat on top of dog", "A dog, on a photo!"]
    tokenizer = Tokenizer.load(saved / "tokenizer", vocab_size=600, length=tiny.LENGTH)
    x = {**inputs, "ids": tokenizer(prompts), "negative_ids": tokenizer(["", "cat"])}
    latents = torch.from_numpy(inputs["latents"])
    arguments = {"latents": latents, "guidance_scale": 7.5, "num_inference_steps": 4, "output_type": "latent"}
    with torch.no_grad():
        wanted = pipe(prompts, negative_prompt=["", "cat"], **arguments).images.numpy()
    assert tiny.error(tiny.output("sampled", ours, x), wanted) < 1e-5


def test_diffusers_loads_an_export_in_half_precision(ours, tmp_path):
    save(tmp_path, ours, np.float16)
    unet = torch_tiny.pipeline(tmp_path).unet
    kernel = ours.params["unet"]["conv_in"]["kernel"]
    np.testing.assert_allclose(unet.conv_in.weight.detach().numpy().transpose(2, 3, 1, 0), kernel, rtol=1e-3)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_sd15_has_the_names_and_shapes_of_pytorch(part):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if part == "text_encoder":
            model = CLIPTextModel(CLIPTextConfig(**_without_class(presets.SD15.text.to_json())))
        elif part == "unet":
            model = UNet2DConditionModel.from_config(presets.SD15.unet.to_json())
        else:
            model = AutoencoderKL.from_config(presets.SD15.vae.to_json())
    theirs = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    found = {}
    for path, shape in folder.parameter_shapes(presets.SD15)[part].items():
        candidates = set(names.torch_names(path)) & theirs.keys()
        assert len(candidates) == 1, path
        found[candidates.pop()] = names.to_torch(path, np.broadcast_to(0, shape)).shape
    assert found == theirs


def _without_class(values):
    return {key: value for key, value in values.items() if key not in ("architectures", "model_type")}
