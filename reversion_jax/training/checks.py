"""Checks of a run's settings that need the sizes of the model, and of the files that the settings name."""

from collections.abc import Mapping, Sequence

import numpy as np

from reversion_jax.config import Settings
from reversion_jax.models.presets import ModelConfig


def check_sizes(config: Settings, sizes: ModelConfig, lists: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError if the model cannot draw pictures of this size, or if a list has too few words."""
    downscale = sizes.vae.downscale * 2 ** (len(sizes.unet.block_out_channels) - 1)
    for name, pixels in zip(("height", "width"), config.size, strict=True):
        if pixels % downscale:
            name = name if getattr(config, name) else "resolution"
            raise ValueError(f"config.{name}={pixels}: must be a multiple of {downscale} for this model")
    for name in ("prepositions", "verbs"):
        if len(lists[name]) < config.positives_per_sample:
            raise ValueError(
                f"config.{name}={getattr(config, name)!r} has {len(lists[name])} words, fewer than "
                f"config.positives_per_sample={config.positives_per_sample}"
            )


def check_first_rows(config: Settings, given: Mapping[str, np.ndarray], sizes: ModelConfig) -> None:
    """Raises ValueError if the rows of an embedding file do not have the shape of the run's rows."""
    wanted = (config.rows_per_token, sizes.text.hidden_size)
    for own in given.values():
        if own.shape != wanted:
            raise ValueError(
                f"config.initialiser={config.initialiser!r} has rows of shape {list(own.shape)}, but config."
                f"rows_per_token={wanted[0]} and the model need {list(wanted)}: give another file or another model"
            )
