"""Draws images from prompts and learned rows. Previews, `sample`, the app and the evaluation all use this module."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from reversion_jax.config import Settings
from reversion_jax.diffusion import own_sampler, samplers
from reversion_jax.diffusion.guidance import guided_denoiser
from reversion_jax.diffusion.noise import Between, Keys, ends
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.diffusion.start import Start
from reversion_jax.drawing import texts
from reversion_jax.drawing.init_image import InitImage, encode
from reversion_jax.drawing.seeds import initial_noise, sample_posterior, sampler_keys
from reversion_jax.inversion import networks
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.runtime.errors import warn
from reversion_jax.runtime.parallel import is_first, mesh_of, over_samples, replicate, whole
from reversion_jax.weights.folder import StableDiffusion

_DECODED_PIXELS = 512 * 512  # the VAE decodes at most this many pixels at once: one picture of 512 x 512 px


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings for drawing images."""

    num_steps: int = 50
    guidance_scale: float = 7.5
    resolution: int = 512  # height and width, px
    sampler: str = "auto"  # name of a sampler in diffusion/samplers.py; "auto": the model's own sampler
    negative_prompt: str = ""
    batch_size: int = 4  # images drawn together
    height: int = 0  # px, for pictures that are not square; 0: the value of `resolution`
    width: int = 0  # px, for pictures that are not square; 0: the value of `resolution`

    @property
    def size(self) -> tuple[int, int]:
        """Returns the height and the width of the images, px."""
        return self.height or self.resolution, self.width or self.resolution

    @classmethod
    def of(cls, settings: Settings, at_most: int | None = None) -> "Sampling":
        """Returns the sampling settings in `settings` (from `settle`), with a batch size of at most `at_most`."""
        return cls(
            num_steps=settings.sample_steps,
            guidance_scale=settings.guidance_scale,
            resolution=settings.resolution,
            height=settings.height,
            width=settings.width,
            sampler=settings.sampler,
            negative_prompt=settings.negative_prompt,
            batch_size=min(settings.sample_batch, at_most or settings.sample_batch),
        )


def decode(params: Any, config: VAEConfig, latents: jax.Array) -> jax.Array:
    """Decodes latents [N, H, W, C] to images [N, 8 H, 8 W, 3], a few at a time to limit the memory."""
    pixels = latents.shape[1] * latents.shape[2] * config.downscale**2
    decode_batch = nn.apply(VAE.decode, VAE(config))
    one = lambda latents: decode_batch({"params": params["vae"]}, latents[None])[0]
    return jax.lax.map(one, latents, batch_size=max(1, _DECODED_PIXELS // pixels))


@partial(jax.jit, static_argnames=("model", "schedule", "sampler", "num_steps", "size", "mesh", "skipped"))
def _draw_batch(
    params: Any,
    unconditional: jax.Array,
    conditional: jax.Array,
    seeds: np.ndarray | Between,
    guidance_scale: np.floating,
    posterior: tuple[jax.Array, ...] = (),
    *,
    model: ModelConfig,
    schedule: Schedule,
    sampler: str,
    num_steps: int,
    size: tuple[int, int],
    mesh: Mesh,
    skipped: int = 0,
) -> jax.Array:
    """Draws images [N, H, W, 3] of the size (H, W) from the seeds, uint32 [N]. posterior, skipped: see `encode`.

    unconditional, conditional: the text states [1, L, D] of the negative prompt and [N, L, D] of the prompts.
    """

    def draw(
        params: Any, unconditional: jax.Array, conditional: jax.Array, seeds: Keys, *others: jax.Array
    ) -> jax.Array:
        scales, *posterior = others
        noise, keys = initial_noise(seeds, model, size), sampler_keys(seeds)
        start = Start(sample_posterior(seeds, *posterior) if posterior else None, skipped)
        predict = partial(networks.predict, params, model)
        denoiser = guided_denoiser(predict, unconditional, conditional, scales[:, None, None, None])
        latents = samplers.get(sampler)(denoiser, noise, schedule, num_steps, keys, start)
        return decode(params, model.vae, latents)

    unconditional = jnp.broadcast_to(unconditional, conditional.shape)
    scales = jnp.broadcast_to(guidance_scale, len(conditional))
    posterior = tuple(jnp.broadcast_to(array, (len(conditional), *array.shape[1:])) for array in posterior)
    images = over_samples(draw, mesh)(params, unconditional, conditional, seeds, scales, *posterior)
    return whole(images, mesh)


def check(sampling: Sampling, model: ModelConfig) -> None:
    """Raises ValueError if the model cannot draw this size, or if the guidance scale is not finite."""
    multiple = model.vae.downscale
    for name, pixels in zip(("height", "width"), sampling.size, strict=True):
        if pixels < multiple or pixels % multiple:
            raise ValueError(f"{name} or resolution={pixels}: must be a multiple of {multiple} for this model")
    if not np.isfinite(sampling.guidance_scale):
        raise ValueError(f"guidance_scale={sampling.guidance_scale}: must be a number, and finite")


def draw_batches(
    sd: StableDiffusion,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Between],
    seeds: Sequence[int | Between],
    rows: np.ndarray | jax.Array | None = None,
    *,
    sampling: Sampling,
    init: InitImage | None = None,
    progress: str | None = None,
) -> Iterator[np.ndarray]:
    """Draws one image for each prompt and its seed; yields batches of images, float32 [n, H, W, 3] in [-1, 1].

    prompts, seeds: as many seeds as prompts. For a `Between` of two prompts, their text states are interpolated
    linearly; for a `Between` of two seeds, their noises spherically. rows: learned rows [P, D] for placeholders in the
    prompts. init: picture for image to image. progress: label of a progress bar. Draws on the weights' devices.
    Images are repeated to fill the last batch, so that all batches have the same size and are compiled only once.

    Raises ValueError for an unknown sampler, a wrong size or strength, a placeholder without a row, or a missing seed,
    and FloatingPointError if pictures are not finite.
    """
    check(sampling, sd.config)
    if sampling.sampler == samplers.AUTO and (other := sd.own_sampler.nearest_to):
        warn(f"the model's own sampler, {other}, is not supported: using the nearest, {sd.own_sampler.name}")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds: each image needs one")
    mesh, static = mesh_of(sd.params), _static(sd, sampling)
    rows = np.zeros((0, sd.config.text.hidden_size), np.float32) if rows is None else rows
    batch_size = _batch_size(sampling, mesh)
    between, own = ends(prompts), ends(seeds, np.uint32)
    distinct, number = np.unique([sampling.negative_prompt, *between.first, *between.last], return_inverse=True)
    negative, (first, last) = number[:1], number[1:].reshape(2, -1)
    between, own = Between(first, last, between.weight), own if own.weight.any() else own.first
    states = texts.text_states(sd, tokenizer, distinct.tolist(), replicate(rows, mesh), batch_size)
    posterior, skipped = encode(sd, init, sampling.size, sampling.num_steps)
    count = len(prompts)
    quiet = progress is None or not is_first()
    for start in tqdm(range(0, count, batch_size), progress, disable=quiet, mininterval=1):
        chosen = texts.batch(start, batch_size, count)
        conditional = texts.between(states, _take(between, chosen))
        # `lower` assumes these places on the devices.
        placed = replicate((states[negative], conditional), mesh)
        with jax.default_matmul_precision(sd.products):
            batch = _draw_batch(
                sd.params,
                *placed,
                _take(own, chosen),
                np.float32(sampling.guidance_scale),
                posterior,
                skipped=skipped,
                **static,
            )
        yield clipped(np.asarray(batch)[: count - start])


def lower(
    sd: StableDiffusion, prompts: Sequence[str], length: int, num_rows: int, *, sampling: Sampling
) -> list[jax.stages.Lowered]:
    """Lowers the programs with which `draw_batches` draws prompts, so that they can be compiled before they are needed.

    sd: its params may be the arrays' shapes, with the arrays' shardings. length: the number of ids per prompt.
    num_rows: P, the number of learned rows. Only for prompts and seeds that are not a `Between`, and without `init`.
    """
    mesh, static = mesh_of(sd.params), _static(sd, sampling)
    size, width = _batch_size(sampling, mesh), sd.config.text.hidden_size
    array = jax.ShapeDtypeStruct
    on_mesh = lambda *shape, dtype="float32": array(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    ids = array((min(size, len({sampling.negative_prompt, *prompts})), length), "int32")
    with jax.default_matmul_precision(sd.products):
        of_texts = texts.encode_text.lower(sd.params, sd.config, ids, on_mesh(num_rows, width))
        states = [on_mesh(n, length, width, dtype=of_texts.out_info.dtype) for n in (1, size)]
        seeds, scale = array((size,), "uint32"), array((), "float32")
        return [of_texts, _draw_batch.lower(sd.params, *states, seeds, scale, (), skipped=0, **static)]


def _static(sd: StableDiffusion, sampling: Sampling) -> dict[str, Any]:
    """Returns the static arguments of `_draw_batch`, except `skipped`. Raises ValueError for an unknown sampler."""
    sampler, schedule = own_sampler.choose(sampling.sampler, sd.own_sampler, sd.schedule)
    of_sampling = {"sampler": sampler, "num_steps": sampling.num_steps, "size": sampling.size}
    return {"model": sd.config, "schedule": schedule, "mesh": mesh_of(sd.params), **of_sampling}


def _batch_size(sampling: Sampling, mesh: Mesh) -> int:
    """Returns the number of images that are drawn together: the config's, rounded up so that devices share evenly."""
    return sampling.batch_size + -sampling.batch_size % mesh.size


def clipped(images: np.ndarray) -> np.ndarray:
    """Clips images to [-1, 1]. Raises FloatingPointError if an image is not finite."""
    if not np.isfinite(images).all():
        raise FloatingPointError(
            "the model drew pictures of NaN, although its weights are finite: try float32 (--precision, "
            "--config.precision), a smaller guidance_scale, or another VAE"
        )
    return np.clip(images, -1, 1)


def draw(
    sd: StableDiffusion,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Between],
    seeds: Sequence[int | Between],
    rows: np.ndarray | jax.Array | None = None,
    *,
    sampling: Sampling,
    init: InitImage | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """Returns all images [N, H, W, 3] at once; takes the arguments of `draw_batches`, and raises the same errors."""
    batches = draw_batches(sd, tokenizer, prompts, seeds, rows, sampling=sampling, init=init, progress=progress)
    return np.concatenate(list(batches))


def _take(arrays: Any, chosen: np.ndarray) -> Any:
    """Selects the entries with indices [n] from each array [N, ...] in the tree `arrays`."""
    return jax.tree.map(lambda array: array[chosen], arrays)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Converts images in [-1, 1] to uint8; rounds as diffusers does."""
    return np.round((images + 1) * 127.5).astype(np.uint8)
