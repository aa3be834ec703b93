"""The picture that image to image begins from: read, made the size that is drawn, and encoded."""

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
    """A picture to begin from, and how much of it is drawn anew."""

    pixels: np.ndarray  # float32 [H, W, 3] in [-1, 1], of the size that is drawn
    strength: float = STRENGTH  # in (0, 1]: the share of the steps that are taken, from the picture with noise
    name: str = ""  # for the metadata of what is drawn


def read(file: str | os.PathLike, size: tuple[int, int], resize: str, strength: float = STRENGTH) -> InitImage:
    """Reads a picture in any format that an exemplar may have, and makes it (H, W) as `exemplars.resized` does.

    ValueError, one line, for a file that is no picture.
    """
    place = files.place(os.fspath(file))
    if not files.is_file(place):
        raise ValueError(f"no picture at {file}")
    return InitImage(exemplars.read_resized(place, size, resize), strength, place.name)


def encode(
    sd: StableDiffusion, init: InitImage | None, size: tuple[int, int], steps: int
) -> tuple[tuple[jax.Array, ...], int]:
    """The posterior's mean and standard deviation, two [1, H/8, W/8, C], and how many of the steps are skipped.

    Without a picture: (), 0. ValueError unless the picture has the size (H, W) that is drawn and values in [-1, 1], and
    for a strength that makes no sense.
    """
    if init is None:
        return (), 0
    if init.pixels.shape != (*size, 3):
        raise ValueError(f"init_image is {list(init.pixels.shape)}: pictures are drawn at {[*size, 3]}")
    if not (np.abs(init.pixels) <= 1).all():
        raise ValueError("init_image has values outside [-1, 1]: give uint8 pixels as pixels / 127.5 - 1")
    skipped = skipped_steps(steps, init.strength)
    with jax.default_matmul_precision(sd.products):
        return _encode(sd.params["vae"], np.asarray(init.pixels, np.float32)[None], sd.config.vae), skipped


@partial(jax.jit, static_argnames="config")
def _encode(params: Any, images: np.ndarray, config: VAEConfig) -> tuple[jax.Array, jax.Array]:
    return nn.apply(VAE.encode, VAE(config))({"params": params}, images)
