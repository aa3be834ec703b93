"""Makes attention maps: draws a picture and averages the UNet's cross-attention for each word of the prompt.

Drawing without attention maps does not become slower, because attention maps have their own compiled function. Flax's
`capture_intermediates` returns the UNet's queries and keys from that function. The sampler's loop runs in Python, so
that the maps of each step can be stored.

Classifier-free guidance runs the UNet with the negative prompt and with the prompt; only the prompt gets attention
maps. Attention probabilities are averaged over the heads, then over the layers of each resolution, then over all calls
of the sampler's denoiser. The map of a word with several tokens is the mean of its tokens' maps. DAAM (Tang et al.,
2022, arXiv:2210.04885) and prompt-to-prompt (Hertz et al., 2022, arXiv:2208.01626) average in the same way, but the
two methods combine different resolutions.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image
from tqdm import tqdm

from reversion_jax.diffusion import own_sampler, samplers
from reversion_jax.diffusion.guidance import guided_denoiser
from reversion_jax.diffusion.start import FROM_NOISE
from reversion_jax.drawing import generate, texts
from reversion_jax.drawing.seeds import initial_noise, sampler_keys
from reversion_jax.models.presets import ModelConfig, compute_dtype
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.unet import UNet
from reversion_jax.runtime import parallel
from reversion_jax.weights.folder import StableDiffusion

_LAYER = "attn2"  # Hugging Face's name for cross-attention; attn1 is self-attention


class Attention(NamedTuple):
    """A picture, and the attention maps of the words in its prompt."""

    prompt: str
    seed: int
    image: np.ndarray  # float32 [H, W, 3] in [-1, 1]
    words: list[str]  # the prompt's words, in order; learned words appear as their tokens
    maps: dict[tuple[int, int], np.ndarray]  # mean probabilities [words, h, w], by resolution (h, w)
    start: float  # mean probability of the start token, which gets the attention that no word gets


def probabilities(
    params: Any, model: ModelConfig, latents: jax.Array, timesteps: jax.Array, states: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the UNet's output, and the attention probabilities of each cross-attention layer, by the layer's path.

    Takes the arguments of `networks.predict`. The probabilities are softmax(q k / √d) of queries q and keys k,
    float32 [N, heads, positions, L].
    """
    is_wanted = lambda module, _: module.name in ("to_q", "to_k") and module.parent.name == _LAYER
    output, kept = UNet(model.unet, compute_dtype(params)).apply(
        {"params": params["unet"]},
        latents,
        timesteps,
        states,
        capture_intermediates=is_wanted,
        mutable=["intermediates"],
    )
    projected = flatten_dict(kept["intermediates"], sep="/")
    split = lambda x: x.reshape(*x.shape[:2], model.unet.attention_head_dim, -1)
    found = {}
    for layer in [path.removesuffix("/to_q/__call__") for path in projected if path.endswith("/to_q/__call__")]:
        query, key = (split(projected[f"{layer}/{name}/__call__"][0]) for name in ("to_q", "to_k"))
        query = query * query.shape[-1] ** -0.5
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32)
        found[layer] = jax.nn.softmax(scores, axis=-1)
    return output, found


def attend(
    sd: StableDiffusion,
    tokenizer: Tokenizer,
    prompt: str,
    rows: np.ndarray | jax.Array | None = None,
    *,
    seed: int = 0,
    sampling: generate.Sampling,
    progress: str | None = None,
) -> Attention:
    """Draws a prompt, and returns the picture with the attention maps of the prompt's words.

    Takes the arguments of `generate.draw`, draws the same picture, and raises the same errors. Also raises ValueError
    if the prompt has no words.
    """
    generate.check(sampling, sd.config)
    words = words_of(tokenizer, prompt)
    if not words:
        raise ValueError(f"the prompt {prompt!r} has no words: write at least one, to see its attention")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be from 0 to 2**32 - 1")
    sampler, schedule = own_sampler.choose(sampling.sampler, sd.own_sampler, sd.schedule)
    rows = jnp.zeros((0, sd.config.text.hidden_size)) if rows is None else jnp.asarray(rows)
    states = texts.text_states(sd, tokenizer, [sampling.negative_prompt, prompt], rows, 2)
    noise = initial_noise([seed], sd.config, sampling.size)
    keys = sampler_keys(jnp.array([seed], jnp.uint32))
    # Place the inputs on the weights' devices. Otherwise the inputs of the second step, which come from the
    # first step, would be placed differently, and JAX would compile the step again.
    states, noise, keys = parallel.replicate((states, noise, keys), parallel.mesh_of(sd.params))
    seen: list[dict[tuple[int, int], jax.Array]] = []

    def predict(latents: jax.Array, timesteps: jax.Array, states: jax.Array) -> jax.Array:
        with jax.disable_jit(False):
            output, maps = _observe(sd.params, sd.config, latents, timesteps, states)
        seen.append(maps)
        bar.update()
        return output

    denoiser = guided_denoiser(predict, states[:1], states[1:], sampling.guidance_scale)
    total = sampling.num_steps + (sampler == "pndm")  # PNDM makes its first step twice
    with jax.default_matmul_precision(sd.products), tqdm(total=total, desc=progress, disable=progress is None) as bar:
        # Without jit, the samplers' lax.scan runs as a Python loop, so `predict` can store the maps of each step.
        with jax.disable_jit():
            latents = samplers.get(sampler)(denoiser, noise, schedule, sampling.num_steps, keys, FROM_NOISE)
        image = generate.clipped(np.asarray(_decode(sd.params, sd.config.vae, latents)))[0]
    of_tokens = {size: np.mean([np.asarray(maps[size]) for maps in seen], axis=0) for size in seen[0]}
    maps = {size: np.stack([own[..., at].mean(axis=-1) for _, at in words]) for size, own in of_tokens.items()}
    start = float(np.mean([own[..., 0].mean() for own in of_tokens.values()]))
    return Attention(prompt, seed, image, [word for word, _ in words], maps, start)


def words_of(tokenizer: Tokenizer, prompt: str) -> list[tuple[str, list[int]]]:
    """Returns the words and punctuation marks of a prompt, each with the positions of its tokens.

    Words beyond the maximum length of the text encoder's input are left out.
    """
    words: list[tuple[str, list[int]]] = []
    ids = tokenizer.word_ids(prompt)[: tokenizer.length - 2]
    first_rows = [tokenizer.placeholder_ids(token)[0] for token in tokenizer.rows_per_token]
    begins = True  # whether the next token begins a word, unless it is a learned token
    for position, (i, name) in enumerate(zip(ids, tokenizer.ids_to_words(ids), strict=True), start=1):
        learned = i >= tokenizer.vocab_size
        ends = learned or tokenizer.backend.convert_ids_to_tokens(int(i)).endswith("</w>")
        part = name if ends else name[:-1]  # `ids_to_words` puts "-" at the end of a token that does not end a word
        if i in first_rows if learned else begins:
            words.append((part, [position]))
        else:
            before, positions = words[-1]
            words[-1] = (before if learned else before + part, [*positions, position])
        begins = ends
    return words


def joined(found: Attention) -> np.ndarray:
    """Returns one map for each word: the mean of its maps at all resolutions, upsampled to the finest resolution.

    The result is float32 [words, h, w].
    """
    finest = max(found.maps)
    return np.mean([[upsampled(own, finest) for own in maps] for maps in found.maps.values()], axis=0)


def upsampled(own: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map [h, w] to `size` (H, W), bicubically as DAAM does; sets negative values to 0; returns float32."""
    larger = Image.fromarray(np.asarray(own, np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.maximum(np.asarray(larger), 0)


@partial(jax.jit, static_argnames="model")
def _observe(
    params: Any, model: ModelConfig, latents: jax.Array, timesteps: jax.Array, states: jax.Array
) -> tuple[jax.Array, dict[tuple[int, int], jax.Array]]:
    """Returns the UNet's outputs [2, H, W, C] for the negative prompt and the prompt, and the prompt's attention maps.

    The attention maps are in a dict from the resolution (h, w) to an array [h, w, L].
    """
    output, layers = probabilities(params, model, latents, timesteps, states)
    height, width = latents.shape[1:3]
    levels = [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(model.unet.block_out_channels))]
    maps = {}
    for h, w in levels:
        own = [layer[1].mean(axis=0) for layer in layers.values() if layer.shape[2] == h * w]
        if own:
            maps[h, w] = jnp.mean(jnp.stack(own), axis=0).reshape(h, w, -1)
    return output, maps


_decode = jax.jit(generate.decode, static_argnames="config")
