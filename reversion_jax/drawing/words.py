"""Reads learned words from a training run and from embedding files, and the settings to draw with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from reversion_jax import config
from reversion_jax.config import Settings
from reversion_jax.runs import folder
from reversion_jax.runtime import precision
from reversion_jax.weights import embeddings, own_settings


class Words(NamedTuple):
    """Learned words, and the settings to draw with."""

    settings: Settings  # the training run's settings, or the defaults for the model
    tokens: dict[str, np.ndarray]  # rows [S, D] by placeholder token
    origin: str  # says where the words come from, for printing


def read(
    workdir: epath.Path | None, model: str | None, embedding_files: Sequence[str] = (), step: int | None = None
) -> Words:
    """Reads the words of a training run, if there is one, and of embedding files.

    embedding_files: each entry is "FILE", or "TOKEN=FILE" to give the file's word another token. FILE may also be a
    folder of embedding files or a hub id, see `embeddings.find`.
    step: the step of an earlier checkpoint of the run; None: the newest rows.
    Raises ValueError or OSError for bad input.
    """
    if not workdir and not model:
        raise ValueError("nothing to draw with: give --workdir=RUN or --model=FOLDER_OR_HUB_ID")
    tokens: dict[str, np.ndarray] = {}
    origins = []
    if workdir:
        run = folder.read(workdir, step)
        tokens = run.words()
        # The run may have been trained on another machine, so the precision is chosen anew for this machine.
        settings = dataclasses.replace(run.settings, precision=precision.AUTO)
        origins.append(run.describe())
    else:
        settings = Settings(model=model or "")
        settings = config.settle(settings, own_settings.read(settings.model))
    settings = dataclasses.replace(settings, model=model or settings.model)
    for given in embedding_files:
        token, name = ("", given) if Path(given).exists() or "=" not in given else given.split("=", 1)
        for path in embeddings.find(name):
            found = embeddings.read(path)
            if token:
                if len(found) != 1:
                    raise ValueError(f"{path} holds {len(found)} tokens ({', '.join(found)}): give it without {token}=")
                found = dict(zip([token], found.values(), strict=True))
            for word, rows in found.items():
                if word in tokens:
                    raise ValueError(f"{word} is in two files, also {path}: rename one by --embedding=TOKEN=FILE")
                tokens[word] = rows
            origins.append(f"{', '.join(found)} from {path}")
    return Words(settings, tokens, "; ".join(origins) or "no learned words")
