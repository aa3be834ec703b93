"""Looks at learned words beside the model's own, without a picture."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath

from reversion_jax.inversion import rows
from reversion_jax.inversion.prompts import RELATION
from reversion_jax.models.clip import token_table
from reversion_jax.runs import folder
from reversion_jax.runtime import files
from reversion_jax.weights import embeddings
from reversion_jax.weights.load import load_model
from reversion_jax.weights.resolve import read_config


def look(workdir: epath.Path | None, model: str | None, file: str | None, initialiser: str) -> dict[str, dict]:
    """Where learned rows stand in a model's token table, by their names; ValueError, OSError."""
    if workdir:
        run = folder.read(workdir)
        model, initialiser = model or run.settings.model, run.settings.initialiser
        tokens = run.words()
    elif not model:
        raise ValueError("an embedding is looked at beside a model's words: give --model=FOLDER_OR_HUB_ID")
    else:
        tokens = embeddings.read(files.place(file or "").expanduser())
    embeddings.check_width(tokens, read_config(model).text.hidden_size, model)
    sd, tokenizer, _ = load_model(model)
    table = token_table(sd.params)
    learned = jnp.concatenate([jnp.asarray(own) for own in tokens.values()])
    given = embeddings.initial_words(initialiser)
    if given is None:
        start = tokenizer.word_ids(initialiser)
        first = jnp.concatenate([rows.init(table, [start], len(own)) for own in tokens.values()])
    else:
        first = jnp.concatenate([jnp.asarray(given.get(token, given[RELATION])) for token in tokens])
        if first.shape != learned.shape:
            raise ValueError(f"{initialiser}: rows of another shape than those that were learned from it")
    seen = rows.diagnose(learned, first, table)
    names = [f"{token}[{i}]" if len(own) > 1 else token for token, own in tokens.items() for i in range(len(own))]
    words = [tokenizer.ids_to_words(ids) for ids in np.asarray(seen.nearest_ids)]
    return {
        name: {
            "norm": float(seen.norms[i]),
            "median_norm_of_words": float(seen.median_norm),
            f"cosine_to_{initialiser}": float(seen.to_start[i]),
            "nearest": dict(zip(words[i], np.asarray(seen.nearest[i]).tolist(), strict=True)),
            "cosine_to": {other: float(seen.between[i, j]) for j, other in enumerate(names) if j != i},
        }
        for i, name in enumerate(names)
    }


def describe(seen: Mapping[str, Mapping]) -> str:
    """What `look` found, for people."""
    said = lambda value: (
        ", ".join(f"{k} {v:.3f}" for k, v in value.items()) if isinstance(value, dict) else f"{value:.3f}"
    )
    lines = []
    for name, row in seen.items():
        lines += [name, *(f"  {key.replace('_', ' '):22} {said(value)}" for key, value in row.items() if value != {})]
    return "\n".join(lines)
