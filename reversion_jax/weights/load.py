"""Loads a model, ready to use: networks on devices, and the tokenizer."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runtime import parallel
from reversion_jax.weights import folder, vae_file
from reversion_jax.weights.resolve import resolve
from reversion_jax.weights.variant import Variant


class Model(NamedTuple):
    """A Stable Diffusion on devices, its tokenizer, and the name that the user gave."""

    sd: folder.StableDiffusion
    tokenizer: Tokenizer
    name: str


def load_model(
    model: str,
    rows_per_token: Mapping[str, int] | None = None,
    precision: str = "float32",
    mesh: Mesh | None = None,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> Model:
    """Loads a model by its folder, file or hub id. ValueError and OSError, one line each.

    rows_per_token: placeholders that the tokenizer shall know, and how many rows each has.
    precision: "float32" or "bfloat16", of text encoder and UNet.
    mesh: devices that hold the weights, see `parallel.split`; by default all devices, each with all weights.
    variant: what is loaded where the model's files leave a choice, such as another VAE.
    """
    if variant.vae:
        variant = dataclasses.replace(variant, vae=str(vae_file.resolve(variant.vae)))
    mesh = mesh or parallel.make_mesh(jax.device_count())
    put = functools.partial(parallel.split, mesh=mesh)
    sd = folder.load(resolve(model), dtype=jnp.dtype(precision), put=put, variant=variant)
    tokenizer = Tokenizer.load(
        sd.tokenizer_folder,
        rows_per_token,
        vocab_size=sd.config.text.vocab_size,
        length=sd.config.text.max_position_embeddings,
    )
    return Model(sd, tokenizer, model)
