"""Compares attention maps with the cross-attention of diffusers, and pictures drawn with and without attention maps."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import tiny

from reversion_jax.drawing import attention, attention_sheet, generate, texts
from reversion_jax.inversion import networks
from reversion_jax.models.tokenizer import Tokenizer

ROWS = tiny.noise(3, (3, 32))
HOW = generate.Sampling(num_steps=2, guidance_scale=3.0, resolution=16, sampler="ddim", negative_prompt="photo")
PROMPT = "cat <R> dog on zb"
observe = tiny.quick_jit(attention.probabilities, static_argnums=1)


@pytest.fixture(scope="module")
def tokenizer(recorded):
    return Tokenizer.load(recorded.folder / "tokenizer", {"<R>": 2, "<R-inv>": 1}, vocab_size=600, length=tiny.LENGTH)


@pytest.fixture(scope="module")
def pipeline(recorded):
    """Returns diffusers' pipeline with the weights of the tiny model, and a list.

    Each cross-attention layer appends its name and its attention probabilities to the list.
    """
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    import torch_tiny
    from diffusers.models.attention_processor import AttnProcessor

    seen = []

    class Recorder(AttnProcessor):
        """Computes attention with `get_attention_scores` and records the result."""

        def __init__(self, name):
            self.name = name

        def __call__(self, attn, hidden_states, *arguments, **more):
            scores = attn.get_attention_scores

            def keep(query, key, mask=None):
                found = scores(query, key, mask)
                if ".attn2." in self.name:
                    seen.append((self.name.removesuffix(".processor"), found.detach().numpy()))
                return found

            attn.get_attention_scores = keep
            try:
                return super().__call__(attn, hidden_states, *arguments, **more)
            finally:
                attn.get_attention_scores = scores

    pipe = torch_tiny.pipeline(recorded.folder)
    pipe.unet.set_attn_processor({name: Recorder(name) for name in pipe.unet.attn_processors})
    return pipe, seen


@pytest.fixture(scope="module")
def watched(recorded, tokenizer):
    return attention.attend(recorded.model, tokenizer, PROMPT, ROWS, seed=5, sampling=HOW)


def test_attention_probabilities_equal_those_of_diffusers(recorded, pipeline):
    """Compares every cross-attention layer, for latents of 10 by 7."""
    torch = pytest.importorskip("torch")
    pipe, seen = pipeline
    x = {"latents": recorded.inputs["wide_latents"]}
    x |= {name: recorded.inputs[name][:1] for name in ("timesteps", "states")}
    seen.clear()
    with torch.no_grad():
        wanted = pipe.unet(*(torch.from_numpy(x[name]) for name in ("latents", "timesteps", "states"))).sample
    arguments = (recorded.model.params, recorded.model.config, tiny.nhwc(x["latents"]), x["timesteps"], x["states"])
    output, found = observe(*arguments)
    assert tiny.error(tiny.nchw(output), wanted.numpy()) < 1e-5
    assert len(seen) == len(found) == 6
    theirs = dict(seen)
    for path, own in found.items():
        wanted = theirs[re.sub(r"_(\d+)(?=\.)", r".\1", path.replace("/", "."))]
        np.testing.assert_allclose(np.asarray(own).reshape(wanted.shape), wanted, atol=1e-5)


def test_maps_are_means_of_the_attention_in_diffusers(recorded, tokenizer, pipeline, watched):
    """Each map is a mean over steps, heads and the layers of one resolution, without the negative prompt."""
    torch = pytest.importorskip("torch")
    pipe, seen = pipeline
    model = recorded.model
    ids = tokenizer(["photo", PROMPT])
    negative, prompt = (
        torch.tensor(np.asarray(texts.encode_text(model.params, model.config, i[None], ROWS))) for i in ids
    )
    noise = generate.initial_noise([5], model.config, HOW.size)
    seen.clear()
    pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        latents=torch.tensor(tiny.nchw(noise)),
        guidance_scale=3.0,
        num_inference_steps=2,
        output_type="latent",
    )
    assert len(seen) == 2 * 6
    assert {size: len(own) for size, own in watched.maps.items()} == {(8, 8): 5, (4, 4): 5}
    for (h, w), own in watched.maps.items():
        halves = [own.reshape(2, -1, h, w, own.shape[-1])[1] for _, own in seen if own.shape[1] == h * w]
        assert len(halves) == 2 * {8: 5, 4: 1}[h]
        mean = np.mean([half.mean(axis=0) for half in halves], axis=0)
        # The token positions of "cat", the two rows of <R>, "dog", "on", and the two letters of "zb".
        wanted = [mean[..., at].mean(axis=-1) for at in ([1], [2, 3], [4], [5], [6, 7])]
        np.testing.assert_allclose(own, wanted, atol=1e-5)


def test_drawing_with_maps_gives_the_same_picture(small_model, tokenizer):
    """The sampler adds noise, so a wrong random key would change the picture."""
    how = dataclasses.replace(HOW, sampler="euler_ancestral")
    own = attention.attend(small_model.model, tokenizer, PROMPT, ROWS, seed=3_000_000_000, sampling=how).image
    usual = generate.draw(small_model.model, tokenizer, [PROMPT], [3_000_000_000], ROWS, sampling=how)[0]
    np.testing.assert_allclose(own, usual, atol=1e-4)


def test_recording_attention_does_not_change_what_jax_traces_later(recorded, small_model):
    """The interceptor that records attention is removed after tracing."""
    x, model = recorded.inputs, small_model.model
    arguments = (tiny.nhwc(x["latents"]), x["timesteps"], x["states"])
    program = lambda: str(jax.make_jaxpr(functools.partial(networks.predict, model.params, model.config))(*arguments))
    before = program()
    jax.eval_shape(functools.partial(attention.probabilities, model.params, model.config), *arguments)
    assert program() == before


def test_each_word_of_a_prompt_has_its_token_positions(tokenizer):
    assert attention.words_of(tokenizer, PROMPT) == [
        ("cat", [1]),
        ("<R>", [2, 3]),
        ("dog", [4]),
        ("on", [5]),
        ("zb", [6, 7]),
    ]
    assert attention.words_of(tokenizer, "zb-") == [("zb", [1, 2]), ("-", [3])]
    assert attention.words_of(tokenizer, "<R><R> <R-inv>, cat") == [
        ("<R>", [1, 2]),
        ("<R>", [3, 4]),
        ("<R-inv>", [5]),
        (",", [6]),
        ("cat", [7]),
    ]
    # Words that do not fit into the text encoder's length are left out.
    assert attention.words_of(tokenizer, "cat " * 9 + "<R> dog")[-2:] == [("cat", [9]), ("<R>", [10])]
    assert attention.words_of(tokenizer, "") == []


def test_the_attention_sheet_and_its_numbers_describe_every_word(watched):
    sheet = attention_sheet.sheet(watched, ("<R>",))
    assert sheet.size[0] > 400
    assert sheet.size[1] > 300
    numbers = attention_sheet.as_json(watched, ("<R>",))
    by_word = {word["word"]: word for word in numbers["words"]}
    assert list(by_word) == ["cat", "<R>", "dog", "on", "zb"]
    assert by_word["<R>"]["correlation_to"]["<R>"] == pytest.approx(1)
    assert -1 <= by_word["cat"]["correlation_to"]["<R>"] < 0.999
    assert 0 < by_word["cat"]["mean"] < by_word["cat"]["peak"] < 1
    assert all(0 < at < 1 for at in by_word["cat"]["centre"])
    assert "<R>" in attention_sheet.describe(numbers)


def test_the_centre_of_an_attention_map_is_where_its_word_attends():
    """A map with all attention in one corner has its centre in that corner, at every resolution."""
    corner = np.zeros((2, 8, 8), np.float32)
    corner[0, :2, 6:] = 1
    corner[1, 6:, :2] = 1
    coarse = corner[:, ::4, ::4] * 0
    coarse[0, 0, 1] = coarse[1, 1, 0] = 1
    image = np.zeros((16, 16, 3), np.float32)
    found = attention.Attention("a b", 0, image, ["up", "down"], {(8, 8): corner, (2, 2): coarse}, 0.0)
    up, down = attention_sheet.as_json(found, ("up",))["words"]
    assert up["centre"][0] > 0.7 > 0.3 > up["centre"][1]
    assert down["centre"][0] < 0.3 < 0.7 < down["centre"][1]
    assert down["correlation_to"]["up"] < 0


@pytest.mark.parametrize(
    ("prompt", "changes", "says"),
    [
        ("cat", {"resolution": 15}, "must be a multiple of 2 for"),
        ("cat", {"sampler": "magic"}, "use one of ddim"),
        ("", {}, "has no words"),
        ("cat <R-inv> dog", {}, "placeholders need more than the 2 rows given"),
    ],
)
def test_bad_input_for_attention_maps_is_refused(recorded, tokenizer, prompt, changes, says):
    with pytest.raises(ValueError, match=says):
        attention.attend(recorded.model, tokenizer, prompt, ROWS[:2], sampling=dataclasses.replace(HOW, **changes))
