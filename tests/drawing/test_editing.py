"""Compares image to image with diffusers if it is installed, and the first and last frames of clips with pictures."""

import functools
import importlib
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reversion_jax.diffusion import own_sampler
from reversion_jax.diffusion.guidance import guided_denoiser
from reversion_jax.diffusion.noise import Between
from reversion_jax.diffusion.samplers import SAMPLERS, pndm
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.drawing import generate, public, samples
from reversion_jax.drawing.init_image import InitImage
from reversion_jax.drawing.pictures import read_metadata
from reversion_jax.inversion import networks
from reversion_jax.weights.load import load_model

PROMPTS, SEEDS = ["cat on dog", "photo of dog"], [5, 6]
# Samplers that start image to image in the same way as another sampler. Only the long suite tests these samplers here,
# because test_samplers.py compares all samplers.
ALIKE = ("ddim", "euler", "dpmpp_2m", "dpmpp_2m_karras")
HOW = {"num_steps": 5, "guidance_scale": 3.0, "resolution": 16, "batch_size": 2}


@pytest.fixture(scope="module")
def model(small):
    """Loads the tiny model as `sample` loads it. The tests in this file share the compiled programs of this model."""
    return load_model(str(small), precision="float32")


@pytest.fixture(scope="module")
def draw(model):
    def draw(prompts, seeds, init=None, **values):
        sampling = generate.Sampling(**HOW | values)
        return generate.draw(model.sd, model.tokenizer, prompts, seeds, sampling=sampling, init=init)

    return draw


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def pixels(photo) -> np.ndarray:
    return np.asarray(photo, np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def pipeline(small):
    diffusers = pytest.importorskip("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(small, safety_checker=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def normal(seed, *folded):
    """Returns the noise of one image. The noise has the random key of `seed` with the numbers `folded` folded in."""
    key = jax.random.key(seed)
    for number in folded:
        key = jax.random.fold_in(key, number)
    return np.array(jax.random.normal(key, (8, 8, 4)))


def give_noise(monkeypatch, module, arrays):
    """Makes a module of diffusers use `arrays`, each [N, H, W, C], one after the other in place of random noise."""
    torch = importlib.import_module("torch")
    given = iter(arrays)
    monkeypatch.setattr(
        module, "randn_tensor", lambda *_, **__: torch.from_numpy(next(given).transpose(0, 3, 1, 2).copy())
    )


# NumPy 2 warns of the way in which diffusers makes arrays from tensors.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in ALIKE)) for name in SAMPLERS])
def test_image_to_image_gives_the_pixels_of_diffusers(name, draw, pipeline, photo, pixels, monkeypatch):
    """The package and diffusers get the same noise for the VAE's posterior, the first latents and each step."""
    diffusers = importlib.import_module("diffusers")
    kind = getattr(diffusers, own_sampler._SCHEDULERS[name.removesuffix("_karras")])
    own = own_sampler.OwnSampler(name).to_json()
    pipeline.scheduler = kind.from_config({**Schedule().to_json(), **own})
    both = lambda *folded: np.stack([normal(seed, *folded) for seed in SEEDS])
    skipped = 2
    give_noise(monkeypatch, inspect.getmodule(type(pipeline)), [both()])
    give_noise(monkeypatch, importlib.import_module("diffusers.models.autoencoders.vae"), both(2)[:, None])
    if name == "euler_ancestral":
        steps = [both(1, i) for i in range(skipped, 5)]
        give_noise(monkeypatch, inspect.getmodule(kind), steps)
    torch = importlib.import_module("torch")
    wanted = pipeline(
        PROMPTS,
        [photo, photo],
        strength=0.6,
        num_inference_steps=5,
        guidance_scale=3.0,
        generator=[torch.Generator() for _ in SEEDS],
        output_type="np",
    ).images
    found = (draw(PROMPTS, SEEDS, InitImage(pixels, 0.6), sampler=name) + 1) / 2
    assert found.shape == wanted.shape
    assert np.mean((wanted > 0) & (wanted < 1)) > 0.5  # most pixels are not clipped
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_plain_drawing_equals_its_parts_composed_by_hand_bit_for_bit(draw, model, monkeypatch):
    """Plain drawing has no initial picture and no clip. This test composes the parts of plain drawing by hand."""
    real, given = generate._draw_batch, []
    monkeypatch.setattr(generate, "_draw_batch", lambda *arrays, **how: given.append(arrays) or real(*arrays, **how))
    found = draw(PROMPTS, SEEDS, sampler="pndm")
    ((params, empty, states, seeds, scale, posterior),) = given
    assert posterior == ()
    sizes, schedule = model.sd.config, model.sd.schedule

    @jax.jit
    def compose(params, empty, states, seeds, scale):
        noise = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), (8, 8, 4)))(seeds)
        predict = functools.partial(networks.predict, params, sizes)
        scales = jnp.broadcast_to(scale, 2)[:, None, None, None]
        denoiser = guided_denoiser(predict, jnp.broadcast_to(empty, states.shape), states, scales)
        return generate.decode(params, sizes.vae, pndm(denoiser, noise, schedule, 5, None))

    np.testing.assert_array_equal(found, np.clip(compose(params, empty, states, seeds, scale), -1, 1))


def test_clips_and_image_to_image_do_not_recompile_plain_drawing(draw, pixels):
    """A clip between prompts uses the compiled program of plain drawing. Image to image has a program of its own."""
    draw(PROMPTS, SEEDS, sampler="pndm")
    compiled = generate._draw_batch._cache_size()
    draw([Between(*PROMPTS, 0.5)], [5], sampler="pndm")
    assert generate._draw_batch._cache_size() == compiled
    draw(PROMPTS, SEEDS, InitImage(pixels, 0.6), sampler="pndm")
    compiled = generate._draw_batch._cache_size()
    draw(PROMPTS, SEEDS, sampler="pndm")
    assert generate._draw_batch._cache_size() == compiled


def source(model, **settings) -> samples.Source:
    how = {"sampler": "pndm", "sample_steps": 5, "guidance_scale": 3.0, "resolution": 16, "sample_batch": 2}
    how["precision"] = "float32"
    return samples.Source(None, None, str(model), [], how | settings)


def durations(clip):
    """Yields the duration of each frame of an animation in ms."""
    for number in range(clip.n_frames):
        clip.seek(number)
        clip.load()
        yield clip.info["duration"]


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path), int)


def test_first_and_last_frame_of_a_clip_between_prompts_equal_pictures_of_sample(small, tmp_path):
    """The first and the last frame equal the pictures that `sample` draws for the two prompts, bit for bit."""
    samples.sample(source(small), PROMPTS, str(tmp_path / "plain"), num_images=1, seed=5)
    samples.sample(source(small), PROMPTS, str(tmp_path / "clip"), seed=5, interpolate=4)
    frames = [picture(tmp_path / "clip" / f"frame-{i:03d}.png") for i in range(4)]
    np.testing.assert_array_equal(frames[0], picture(tmp_path / "plain" / "000-cat-on-dog-5.png"))
    np.testing.assert_array_equal(frames[3], picture(tmp_path / "plain" / "001-photo-of-dog-5.png"))
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    said = read_metadata(tmp_path / "clip" / "frame-001.png")
    assert (said["prompt"], said["to_prompt"], said["weight"], said["seed"]) == (*PROMPTS, "0.333333", "5")
    assert "parameters" not in said
    with Image.open(tmp_path / "clip" / "clip.webp") as clip:
        assert (clip.size, clip.info["loop"]) == ((16, 16), 0)
        assert sum(durations(clip)) == 4 * 120  # WebP merges equal frames into one with a longer duration


def test_first_and_last_frame_of_a_clip_between_seeds_nearly_equal_pictures_of_sample(small, tmp_path):
    """A clip between seeds has its own compiled program, which rounds differently from the program for pictures."""
    samples.sample(source(small), PROMPTS[:1], str(tmp_path / "plain"), num_images=2, seed=5)
    samples.sample(source(small), PROMPTS[:1], str(tmp_path / "clip"), seed=5, interpolate=3, to_seed=6)
    frames = [picture(tmp_path / "clip" / f"frame-{i:03d}.png") for i in range(3)]
    ends = [picture(tmp_path / "plain" / f"000-cat-on-dog-{seed}.png") for seed in (5, 6)]
    assert np.abs(frames[0] - ends[0]).max() <= 1
    assert np.abs(frames[2] - ends[1]).max() <= 1
    assert min(np.abs(frames[1] - end).mean() for end in ends) > 2
    said = read_metadata(tmp_path / "clip" / "frame-001.png")
    assert (said["prompt"], said["seed"], said["to_seed"], said["weight"]) == (PROMPTS[0], "5", "6", "0.5")


def test_image_to_image_gives_the_same_picture_by_command_and_by_library(small, model, tmp_path):
    """The initial picture is resized to the size of the drawn picture.

    The drawn picture records the strength and the name of the initial picture's file.
    """
    file = tmp_path / "bus.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)).save(file)
    how = {"init_image": str(file), "strength": 0.6}
    samples.sample(source(small), PROMPTS, str(tmp_path / "out"), num_images=1, seed=5, **how)
    found = [picture(tmp_path / "out" / name) for name in ("000-cat-on-dog-5.png", "001-photo-of-dog-5.png")]
    said = read_metadata(tmp_path / "out" / "000-cat-on-dog-5.png")
    assert (said["init_image"], said["strength"]) == ("bus.jpg", "0.6")
    assert said["parameters"].endswith(", Denoising strength: 0.6")
    assert read_metadata(tmp_path / "out" / "grid.png")["init_image"] == "bus.jpg"

    images = public.draw(model, PROMPTS, seeds=[5, 5], **how, sampler="pndm", **HOW)
    np.testing.assert_array_equal(generate.to_uint8(images), found)
    squashed = Image.open(file).resize((16, 16), Image.Resampling.BICUBIC)
    array = np.asarray(squashed, np.float32) / 127.5 - 1
    again = public.draw(model, PROMPTS, seeds=[5, 5], init_image=array, strength=0.6, sampler="pndm", **HOW)
    np.testing.assert_array_equal(again, images)

    samples.sample(source(small, resize="crop"), PROMPTS, str(tmp_path / "crop"), num_images=1, seed=5, **how)
    assert (picture(tmp_path / "crop" / "000-cat-on-dog-5.png") != found[0]).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init_image": "nowhere.png"}, r"^no picture at nowhere\.png$"),
        ({"init_image": "HERE"}, "^no picture at "),
        ({"init_image": "HERE/text.png"}, "text.png: unreadable picture: save it as one of BMP, JPEG, PNG"),
        ({"init_image": "HERE/small.png", "strength": 0.0}, "strength=0.0: must be above 0, and at most 1"),
        ({"init_image": "HERE/small.png", "strength": 1.5}, "strength=1.5: must be above 0, and at most 1"),
        ({"init_image": "HERE/small.png", "strength": 0.1}, "strength=0.1 of 5 steps is less than one step"),
        ({"strength": 0.5}, "--strength=0.5 says how much --init_image changes: give --init_image too"),
        ({"num_images": 0}, "--num_images=0 --seed=0: give at least 1 image"),
        ({"to_seed": 3}, "--to_seed=3 is the last seed of a clip"),
        ({"interpolate": 4, "num_images": 2}, "--num_images is for pictures, --interpolate for one clip"),
        ({"interpolate": 4}, "--interpolate goes from one prompt to another, or from --seed to another --to_seed"),
        ({"interpolate": 4, "to_seed": 0}, "you gave 1 prompts, and seeds 0 and 0"),
        ({"interpolate": 1, "to_seed": 3}, "--interpolate=1: a clip has at least 2 frames"),
        ({"interpolate": 4, "to_seed": 2**32}, "seeds must be from 0 to"),
    ],
)
def test_bad_input_for_editing_is_refused_in_one_line(small, tmp_path, values, message):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    values = {
        key: value.replace("HERE", str(tmp_path)) if key == "init_image" else value for key, value in values.items()
    }
    with pytest.raises(ValueError, match=message) as error:
        samples.sample(source(small), ["cat"], str(tmp_path / "out"), **values)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_clip_of_more_than_two_prompts_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="you gave 3 prompts"):
        samples.sample(source(small), ["cat", "dog", "on"], str(tmp_path / "out"), interpolate=4)


def test_an_initial_array_of_another_size_or_range_is_refused(draw):
    with pytest.raises(ValueError, match=r"^init_image has shape \[8, 8, 3\], but must have \[16, 16, 3\] to fit$"):
        draw(["cat"], [0], InitImage(np.zeros((8, 8, 3)), 0.5))
    with pytest.raises(ValueError, match=r"^init_image has values outside \[-1, 1\]"):
        draw(["cat"], [0], InitImage(np.full((16, 16, 3), 255, np.uint8), 0.5))
