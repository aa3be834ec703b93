"""Tests loading Stable Diffusion 1.5 at full size with random weights, and compares its outputs with PyTorch's.

    pytest -m full_size -s tests/models/test_full_size.py

The tests need 5 GB of disk, 12 GiB of memory and ten minutes.
"""

import gc
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import unflatten_dict
from places import SHARED

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.drawing import generate
from reversion_jax.models.clip import CLIPTextEncoder
from reversion_jax.models.presets import SD15
from reversion_jax.models.unet import UNet
from reversion_jax.runtime import parallel
from reversion_jax.weights import folder, names

pytestmark = [pytest.mark.full_size, pytest.mark.usefixtures("optimised")]
_LOADER = """
import json, re, sys, time
import jax
from reversion_jax.weights import folder

def memory(counter):  # not getrusage's peak, in which a process starts with its parent's
    return 1024 * int(re.search(rf"{counter}:\\s+(\\d+)", open("/proc/self/status").read())[1])

folder.parameter_shapes(folder.SD15)  # what is compiled and traced is no part of the weights
before = memory("VmRSS")
start = time.perf_counter()
model = jax.block_until_ready(folder.load(sys.argv[1], dtype=sys.argv[2]).params)
seconds = time.perf_counter() - start
peak = memory("VmHWM") - before
print(json.dumps([seconds, peak, sum(x.nbytes for x in jax.tree.leaves(model))]))
"""


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd15")
    if shutil.disk_usage(path).free < 6e9:
        pytest.skip("needs 6 GB of disk")
    shapes = {
        part: {
            names.torch_names(path)[0]: names.to_torch(path, np.broadcast_to(np.False_, shape)).shape
            for path, shape in named.items()
        }
        for part, named in folder.parameter_shapes(SD15).items()
    }
    tiny.write_folder(path, tiny.torch_weights(shapes, seed=1), SD15)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_less_than_a_minute_and_makes_no_second_copy_in_memory(dtype, sd15):
    command = [sys.executable, "-c", _LOADER, str(sd15), dtype]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    seconds, peak, size = json.loads(lines[-1])
    print(f"\nas {dtype}: {size / 1e9:.2f} GB in {seconds:.1f} s, memory grew by {peak / 1e9:.2f} GB at most")
    assert seconds < 60
    assert peak < 1.3 * size


@pytest.fixture(scope="module")
def inputs():
    """Latents and noise of a picture of 256 px, and the ids of a prompt that has token 7."""
    ids = np.full((1, 77), SD15.text.vocab_size - 1, np.int32)
    ids[0, :6] = [49406, 320, 1125, 539, 7, 2368]
    return {
        "ids": ids,
        "latents": tiny.noise(1, (1, 4, 32, 32)),
        "noise": tiny.noise(2, (1, 4, 32, 32)),
        "timesteps": np.array([500], np.int32),
    }


def test_sample_draws_a_picture_with_the_row_of_reversions_authors(sd15, tmp_path):
    row = SHARED / "reference" / "reversion_painted_on_learned_embeds.bin"
    if not row.is_file():
        pytest.skip("no shared/reference beside the repository")
    command = [sys.executable, "-m", "reversion_jax.sample", "--model", str(sd15), "--embedding", str(row)]
    settings = ["--num_images", "1", "--steps", "2", "--sampler", "pndm", "--resolution", "64", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--prompt", "cat <R> stone", *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert f"<R> from {row}" in done.stdout
    assert (tmp_path / "000-cat-r-stone-0.png").is_file()


def test_sixteen_gigabytes_suffice_to_draw_eight_pictures():
    """Adds up the memory that the compiled program needs for pictures of 512 px in float32, as XLA reports it.

    A flag makes XLA schedule for little memory, as XLA does on GPUs and TPUs.
    """
    shapes = folder.parameter_shapes(SD15)
    params = {
        part: unflatten_dict({k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in named.items()}, sep="/")
        for part, named in shapes.items()
    }
    states = lambda n: jax.ShapeDtypeStruct((n, 77, 768), jnp.float32)
    lowered = generate._draw_batch.lower(
        params,
        states(1),
        states(8),
        np.arange(8, dtype=np.uint32),
        np.float32(7.5),
        model=SD15,
        schedule=Schedule(),
        sampler="ddim",
        num_steps=50,
        size=(512, 512),
        mesh=parallel.make_mesh(1),
    )
    compiled = lowered.compile(compiler_options={"xla_cpu_enable_concurrency_optimized_scheduler": False})
    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    weights = sum(4 * math.prod(shape) for named in shapes.values() for shape in named.values())
    print(f"\n8 pictures of 512 px: {total / 1e9:.1f} GB, {weights / 1e9:.1f} of them weights")
    assert total < 16e9


def test_full_size_outputs_and_the_row_gradient_equal_those_of_pytorch(sd15, inputs):
    wanted, wanted_row = _theirs(sd15, inputs)
    gc.collect()
    found, row = _ours(sd15, inputs, jnp.float32)
    gc.collect()
    _, half_row = _ours(sd15, inputs, jnp.bfloat16)
    cosine = float(half_row @ row / np.linalg.norm(half_row) / np.linalg.norm(row))
    errors = tiny.error(found, wanted), tiny.error(row, wanted_row)
    print(f"\nagainst PyTorch: UNet's output off by {errors[0]:.1e}, row's gradient by {errors[1]:.1e}")
    print(f"gradient in bfloat16: cosine {cosine:.5f} with float32's")
    assert max(errors) < 1e-4
    assert cosine > 0.99


def _ours(path, x, dtype):
    model = folder.load(path, dtype=dtype)
    text, unet = CLIPTextEncoder(SD15.text, dtype), UNet(SD15.unet, dtype)
    latents, noise = tiny.nhwc(x["latents"]), tiny.nhwc(x["noise"])
    noisy = Schedule().add_noise(latents, noise, x["timesteps"])

    def loss(row, text_params, unet_params):
        embeddings = text.apply({"params": text_params}, x["ids"], method="embed")
        embeddings = jnp.where((x["ids"] == 7)[..., None], row[None, None], embeddings)
        states = text.apply({"params": text_params}, embeddings, method="encode")
        predicted = unet.apply({"params": unet_params}, noisy, x["timesteps"], states)
        return jnp.mean((predicted - noise) ** 2), predicted

    row = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"][7]
    arguments = model.params["text_encoder"], model.params["unet"]
    gradient, predicted = jax.jit(jax.grad(loss, has_aux=True))(row, *arguments)
    return tiny.nchw(predicted), np.asarray(gradient)


def _theirs(path, x):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    text = transformers.CLIPTextModel.from_pretrained(path / "text_encoder").requires_grad_(False)
    unet = diffusers.UNet2DConditionModel.from_pretrained(path / "unet").requires_grad_(False)
    t = {name: torch.from_numpy(array) for name, array in x.items()}
    table = text.get_input_embeddings().weight.requires_grad_(True)
    scheduler = diffusers.DDIMScheduler.from_pretrained(path / "scheduler")
    noisy = scheduler.add_noise(t["latents"], t["noise"], t["timesteps"].long())
    predicted = unet(noisy, t["timesteps"], text(t["ids"].long()).last_hidden_state).sample
    (gradient,) = torch.autograd.grad(((predicted - t["noise"]) ** 2).mean(), table)
    return predicted.detach().numpy(), gradient[7].numpy()
