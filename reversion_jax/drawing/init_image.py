"""Image to image: reads, resizes and encodes the picture that drawing starts from."""

import os
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from reversion_jax.data import exemplars
from reversion_jax.diffusion.start import skipped_steps
from reversion_jax.models.vae import VAE, VAEConfig
from reversion_jax.runtime import files
from reversion_jax.weights.folder import StableDiffusion

STRENGTH = 0.8  # diffusers' default


class InitImage(NamedTuple):
    """A picture for drawing to start from, and how much of the picture may change."""

    pixels: np.ndarray  # float32 [H, W, 3] in [-1, 1], in the size of the images to draw
    strength: float = STRENGTH  # in (0, 1]: the share of the sampler's steps that are made; earlier steps are skipped
    name: str = ""  # for the metadata of the drawn images


def read(file: str | os.PathLike, size: tuple[int, int], resize: str, strength: float = STRENGTH) -> InitImage:
    """Reads a picture in any format that an exemplar may have, and resizes it to (H, W) as `exemplars.resized` does.

    Raises ValueError if there is no picture at this path.
    """
    place = files.place(os.fspath(file))
    if not files.is_file(place):
        raise ValueError(f"no picture at {file}")
    return InitImage(exemplars.read_resized(place, size, resize), strength, place.name)


def encode(
    sd: StableDiffusion, init: InitImage | None, size: tuple[int, int], steps: int
) -> tuple[tuple[jax.Array, ...], int]:
    """Encodes the picture; returns its posterior's mean and standard deviation, and the number of steps to skip.

    The mean and the standard deviation have the shape [1, H/8, W/8, C]. If `init` is None, returns (), 0. Raises
    ValueError if the picture does not have the size (H, W) or has values outside [-1, 1], or if the strength is not
    valid.
    """
    if init is None:
        return (), 0
    if init.pixels.shape != (*size, 3):
        raise ValueError(f"init_image has shape {list(init.pixels.shape)}, but must have {[*size, 3]} to fit")
    if not (np.abs(init.pixels) <= 1).all():
        raise ValueError("init_image has values outside [-1, 1]: give uint8 pixels as pixels / 127.5 - 1")
    skipped = skipped_steps(steps, init.strength)
    with jax.default_matmul_precision(sd.products):
        return _encode(sd.params["vae"], np.asarray(init.pixels, np.float32)[None], sd.config.vae), skipped


@partial(jax.jit, static_argnames="config")
def _encode(params: Any, images: np.ndarray, config: VAEConfig) -> tuple[jax.Array, jax.Array]:
    return nn.apply(VAE.encode, VAE(config))({"params": params}, images)
