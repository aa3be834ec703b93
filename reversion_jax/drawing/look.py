"""Compares learned words with the model's words: norms, nearest words, cosines, and change in training."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from reversion_jax.drawing import vocabulary
from reversion_jax.drawing.words import Words
from reversion_jax.inversion import rows
from reversion_jax.inversion.prompts import RELATION
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs import folder
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import embeddings
from reversion_jax.weights.resolve import read_config

_NEAREST = 10  # number of nearest tokens to list


class Stop(NamedTuple):
    """A learned row at one checkpoint: one point on the row's path through training."""

    step: int
    vector: np.ndarray  # [D]
    norm: float
    to_start: float  # cosine to the row before training
    moved: float  # distance from the row before training
    nearest: str  # the nearest whole word of the model


class Row(NamedTuple):
    """A learned row, compared with the model's words."""

    vector: np.ndarray  # [D]
    norm: float
    longer_than: float  # share of the model's tokens that have a smaller norm than the row
    to_start: float | None  # cosine to the row before training; None if that row is not known
    between: dict[str, float]  # cosines to the other learned rows, by name
    nearest: dict[str, float]  # cosines to the nearest tokens of the whole token table, best first
    stand_in: str  # the nearest whole word of the model
    path: list[Stop]  # the row before training (step 0) and at each checkpoint; [] for an embedding file


class Look(NamedTuple):
    """Learned words, compared with a model's words; the result of `look`. Vectors are float32 and not normalised."""

    model: str
    origin: str  # says where the learned words come from, for printing
    initialiser: str | None  # the word or file that the rows started from, if it is known
    rows: dict[str, Row]  # by name: the token or, if the token has several rows, a name such as "<R>[1]"
    kinds: dict[str, str]  # the kind of every word in this result, see vocabulary.py
    norms: np.ndarray  # [V] norms of the model's tokens
    words: list[str]  # W whole words of the model: all prepositions and verbs, and frequent other words
    vectors: np.ndarray  # [W, D] vectors of the words in `words`


def look(found: Words, workdir: epath.Path | None = None, initialiser: str | None = None) -> Look:
    """Compares learned words with the words of the model `found.settings.model`. Reads only the model's token table.

    workdir: folder of the run that trained the words; its checkpoints are the points of the words' paths.
    initialiser: the word or the embedding file that training started from; None if it is not known.
    Raises ValueError or OSError for bad input.
    """
    embeddings.check_width(found.tokens, read_config(found.settings.model).text.hidden_size, found.settings.model)
    table, tokenizer = vocabulary.read_table(found.settings)
    history = _history(workdir, found.tokens) if workdir else {}
    learned = _named(found.tokens)
    first = _first(found.tokens, initialiser, table, tokenizer)
    vectors = jnp.stack(list(learned.values()))
    start = vectors if first is None else jnp.asarray(first)
    seen = jax.device_get(rows.diagnose(vectors, start, table, _NEAREST))
    whole = vocabulary.whole_words(tokenizer)
    kind_of = vocabulary.kinds(found.settings)
    stand_ins = _nearest_words(vectors, table, whole)
    norms = np.linalg.norm(np.asarray(table, np.float32), axis=-1)
    rows_seen: dict[str, Row] = {}
    for i, name in enumerate(learned):
        names = tokenizer.ids_to_words(seen.nearest_ids[i])
        own_history = {step: own[name] for step, own in history.items() if name in own}
        rows_seen[name] = Row(
            vector=learned[name],
            norm=float(seen.norms[i]),
            longer_than=float((norms < seen.norms[i]).mean()),
            to_start=None if first is None else float(seen.to_start[i]),
            between={other: float(seen.between[i, j]) for j, other in enumerate(learned) if j != i},
            nearest=dict(zip(names, seen.nearest[i].tolist(), strict=True)),
            stand_in=stand_ins[i],
            path=_path(None if first is None else first[i], own_history, table, whole),
        )
    kept = vocabulary.kept(whole, kind_of)
    named = {*whole, *(word for row in rows_seen.values() for word in row.nearest)}
    kinds = {word: kind_of.get(word, vocabulary.OTHER) if word in whole else vocabulary.PIECE for word in named}
    vectors_kept = np.asarray(table[jnp.asarray([whole[word] for word in kept], jnp.int32)], np.float32)
    return Look(found.settings.model, found.origin, initialiser, rows_seen, kinds, norms, kept, vectors_kept)


def as_json(seen: Look) -> dict[str, dict[str, Any]]:
    """Returns the numbers about each row, for a JSON file."""
    return {
        name: {
            "norm": row.norm,
            "median_norm_of_words": float(np.median(seen.norms)),
            "mean_norm_of_words": float(seen.norms.mean()),
            "spread_of_norms": float(seen.norms.std()),
            "longer_than": row.longer_than,
            **({} if row.to_start is None else {f"cosine_to_{seen.initialiser}": row.to_start}),
            "cosine_to": row.between,
            "nearest": row.nearest,
            "kinds": {word: seen.kinds[word] for word in row.nearest},
            "stand_in": row.stand_in,
            "path": [{k: v for k, v in stop._asdict().items() if k != "vector"} for stop in row.path],
        }
        for name, row in seen.rows.items()
    }


def describe(seen: Look) -> str:
    """Formats the result of `look` as text."""
    lines = []
    for name, row in seen.rows.items():
        spread = f"mean {seen.norms.mean():.3f}, standard deviation {seen.norms.std():.3f}"
        said = {
            "norm": f"{row.norm:.3f}, longer than {row.longer_than:.1%} of the model's {len(seen.norms)} tokens",
            "median norm of words": f"{np.median(seen.norms):.3f}, {spread}",
            **({} if row.to_start is None else {f"cosine to {seen.initialiser}": f"{row.to_start:.3f}, its start"}),
            **{f"cosine to {other}": f"{cosine:.3f}" for other, cosine in row.between.items()},
            "nearest": ", ".join(f"{word} {cosine:.3f} ({seen.kinds[word]})" for word, cosine in row.nearest.items()),
            "stand-in": f"{row.stand_in!r}, the nearest whole word",
        }
        lines += [name, *(f"  {key:22} {value}" for key, value in said.items())]
        if row.path:
            lines.append(f"  {'path':22} {'step':>5} {'norm':>7} {'to start':>9} {'moved':>7}  nearest word")
        for stop in row.path:
            numbers = f"{stop.step:5} {stop.norm:7.3f} {stop.to_start:9.3f} {stop.moved:7.3f}"
            lines.append(f"  {'':22} {numbers}  {stop.nearest} ({seen.kinds[stop.nearest]})")
    return "\n".join(lines)


def stand_in(seen: Look, prompt: str) -> str:
    """Returns the prompt with the model's nearest whole words in place of each learned word.

    To see what the learned words add, compare a picture of this prompt with a picture of the original prompt.
    """
    words: dict[str, list[str]] = {}
    for name, row in seen.rows.items():
        words.setdefault(_token(name), []).append(row.stand_in)
    # Find tokens as the tokenizer does: the longest first, and not inside a word ("hug" is not found in "hugging").
    for token in sorted(words, key=len, reverse=True):
        whole = re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(token))
        prompt = re.sub(whole, " ".join(words[token]), prompt)
    return prompt


def at_step(seen: Look, step: int) -> dict[str, np.ndarray]:
    """Returns the learned words at a checkpoint: rows [S, D] by token. Step 0 means the rows before training.

    Raises ValueError if a row's path does not have this step.
    """
    found: dict[str, list[np.ndarray]] = {}
    for name, row in seen.rows.items():
        vectors = {stop.step: stop.vector for stop in row.path}
        if step not in vectors:
            remedy = f"give one of the steps {', '.join(map(str, vectors))}" if vectors else "its path has no steps"
            raise ValueError(f"{name} has no step {step}: {remedy}")
        found.setdefault(_token(name), []).append(vectors[step])
    return {token: np.stack(own) for token, own in found.items()}


def _token(name: str) -> str:
    """Returns the token in a row's name: "<R>" for "<R>[1]"."""
    return re.sub(r"\[\d+\]$", "", name)


def _history(workdir: epath.Path, tokens: Mapping[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
    """Reads a run's rows [D], by step and name, up to the checkpoint that `tokens` comes from.

    Leaves out damaged files and warns of them.
    """
    found = {}
    for step in folder.kept_steps(workdir):
        try:
            own = folder.read(workdir, step).words()
        except (ValueError, OSError) as error:
            warn(f"{error}: the path leaves it out")
            continue
        found[step] = _named(own)
        if all(np.array_equal(vectors, tokens[token]) for token, vectors in own.items() if token in tokens):
            break
    return found


def _named(tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns rows [D] by name, from rows [S, D] by token. Rows of the same token have numbered names."""
    return {f"{t}[{i}]" if len(own) > 1 else t: own[i] for t, own in tokens.items() for i in range(len(own))}


def _first(
    tokens: Mapping[str, np.ndarray], initialiser: str | None, table: jax.Array, tokenizer: Tokenizer
) -> np.ndarray | None:
    """Returns the rows [P, D] before training; None if they are not known or their file cannot be used.

    Raises ValueError if the initialiser is not a word of the model.
    """
    if initialiser is None:
        return None
    try:
        given = embeddings.initial_words(initialiser)
    except (ValueError, OSError) as error:
        warn(f"{error}: the comparison with the start is left out")
        return None
    if given is None:
        start = tokenizer.word_ids(initialiser)
        return np.concatenate([np.asarray(rows.init(table, [start], len(own))) for own in tokens.values()])
    first = np.concatenate([given.get(token, given[RELATION]) for token in tokens])
    if first.shape != (sum(map(len, tokens.values())), table.shape[1]):
        warn(f"{initialiser} has rows of another shape than the words: the comparison with the start is left out")
        return None
    return first


def _nearest_words(vectors: np.ndarray | jax.Array, table: jax.Array, whole: Mapping[str, int]) -> list[str]:
    """Returns the nearest whole word for each of the vectors [N, D]."""
    ids, _ = rows.nearest(jnp.asarray(vectors), table[jnp.asarray(list(whole.values()), jnp.int32)], 1)
    names = list(whole)
    return [names[i] for i in np.asarray(ids)[:, 0]]


def _path(
    first: np.ndarray | None, history: Mapping[int, np.ndarray], table: jax.Array, whole: Mapping[str, int]
) -> list[Stop]:
    """Returns a row's path from its vector [D] before training and its vectors [D] by step; [] if one is missing."""
    if first is None or not history:
        return []
    at: Sequence[np.ndarray] = [first, *history.values()]
    nearest = _nearest_words(np.stack(at), table, whole)
    cosine = lambda vector: float(np.asarray(rows.unit(vector)) @ np.asarray(rows.unit(first)))
    length = lambda vector: float(np.linalg.norm(vector))
    return [
        Stop(step, vector, length(vector), cosine(vector), length(vector - first), word)
        for step, vector, word in zip([0, *history], at, nearest, strict=True)
    ]
