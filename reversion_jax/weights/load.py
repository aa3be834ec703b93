"""Loads a model so that it is ready to use: its networks on devices, and its tokenizer."""

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
    """A Stable Diffusion model on devices, its tokenizer, and the name by which the user chose the model."""

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
    """Loads a model by its folder, file or hub id.

    rows_per_token: the placeholders that the tokenizer must know, and the number of rows of each.
    precision: a name from runtime/precision.py; "auto" chooses the precision that suits the device.
    mesh: the devices that hold the weights, see `parallel.split`; by default all devices, each with all weights.
    variant: the user's choices, such as another VAE.

    Raises ValueError or OSError, with a message of one line, if the model is missing, damaged or of another family.
    """
    opened, tokenizer = open_model(model, rows_per_token, variant)
    return Model(read_weights(opened, precision, mesh), tokenizer, model)


def open_model(
    model: str,
    rows_per_token: Mapping[str, int] | None = None,
    variant: Variant = Variant(),  # noqa: B008 (it is frozen)
) -> tuple[folder.Opened, Tokenizer]:
    """Opens a model without reading its weights; returns it and its tokenizer. For arguments see `load_model`."""
    if variant.vae:
        variant = dataclasses.replace(variant, vae=str(vae_file.resolve(variant.vae)))
    opened = folder.open_model(resolve(model), variant=variant)
    text = opened.config.text
    sizes = {"vocab_size": text.vocab_size, "length": text.max_position_embeddings}
    return opened, Tokenizer.load(opened.tokenizer_folder, rows_per_token, **sizes)


def read_weights(opened: folder.Opened, precision: str = "auto", mesh: Mesh | None = None) -> folder.StableDiffusion:
    """Reads an opened model's weights and puts them on devices. For arguments and errors see `load_model`."""
    device.warn_of_unseen()
    mesh = mesh or parallel.make_mesh(jax.device_count())
    precision = precisions.choose(precision)
    sd = opened.read(precisions.dtype(precision), functools.partial(parallel.split, mesh=mesh))
    return sd._replace(products=precisions.products(precision))
