"""Loads a model, ready to use: networks on devices, and the tokenizer."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runtime import device, parallel
from reversion_jax.runtime import precision as precisions
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
    precision: str = "auto",
    mesh: Mesh | None = None,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> Model:
    """Loads a model by its folder, file or hub id. ValueError and OSError, one line each.

    rows_per_token: placeholders that the tokenizer shall know, and how many rows each has.
    precision: by its name in runtime/precision.py; by default what suits the device.
    mesh: devices that hold the weights, see `parallel.split`; by default all devices, each with all weights.
    variant: what is loaded where the model's files leave a choice, such as another VAE.
    """
    opened, tokenizer = open_model(model, rows_per_token, variant)
    return Model(read_weights(opened, precision, mesh), tokenizer, model)


def open_model(
    model: str,
    rows_per_token: Mapping[str, int] | None = None,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> tuple[folder.Opened, Tokenizer]:
    """What there is of a model, without its weights, and its tokenizer; arguments and errors as of `load_model`."""
    if variant.vae:
        variant = dataclasses.replace(variant, vae=str(vae_file.resolve(variant.vae)))
    opened = folder.open_model(resolve(model), variant=variant)
    text = opened.config.text
    sizes = {"vocab_size": text.vocab_size, "length": text.max_position_embeddings}
    return opened, Tokenizer.load(opened.tokenizer_folder, rows_per_token, **sizes)


def read_weights(opened: folder.Opened, precision: str = "auto", mesh: Mesh | None = None) -> folder.StableDiffusion:
    """Reads an opened model's weights onto devices; arguments and errors as of `load_model`."""
    device.warn_of_unseen()
    mesh = mesh or parallel.make_mesh(jax.device_count())
    precision = precisions.choose(precision)
    sd = opened.read(precisions.dtype(precision), functools.partial(parallel.split, mesh=mesh))
    return sd._replace(products=precisions.products(precision))
