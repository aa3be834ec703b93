"""What there is to draw with: the words of a training run and of embedding files, and the settings to draw by."""

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
    """Learned words, and how to draw with them."""

    settings: Settings  # the training run's, or the defaults for the model
    tokens: dict[str, np.ndarray]  # rows [S, D] by placeholder token
    origin: str  # of the tokens, for people


def read(
    workdir: epath.Path | None, model: str | None, embedding_files: Sequence[str] = (), step: int | None = None
) -> Words:
    """The words of a training run (if any) and of embeddings, each "FILE" or "TOKEN=FILE". ValueError, OSError.

    Instead of a file, a folder of them or a hub id may be given, see `embeddings.find`.
    `step` names an earlier checkpoint of the run; by default its newest rows are read.
    """
    if not workdir and not model:
        raise ValueError("nothing to draw with: give --workdir=RUN or --model=FOLDER_OR_HUB_ID")
    tokens: dict[str, np.ndarray] = {}
    origins = []
    if workdir:
        run = folder.read(workdir, step)
        tokens = run.words()
        settings = dataclasses.replace(run.settings, precision=precision.AUTO)  # that of this machine, not the run's
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
                    raise ValueError(f"{word} is given twice, also by {path}: name one anew, --embedding=TOKEN=FILE")
                tokens[word] = rows
            origins.append(f"{', '.join(found)} from {path}")
    return Words(settings, tokens, "; ".join(origins) or "no learned words")
