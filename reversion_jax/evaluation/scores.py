"""How good pictures are, by feature vectors: of pictures and of texts, in a CLIP's space; or of pictures alone.

Every function compares vectors by their cosines, whatever their lengths. Axes beyond the package's letters: E the width
of the space, K other sentences, S pictures of one prompt, X exemplars. Each docstring says what its number cannot see.
Stable Diffusion 1.x reads prompts by the text encoder of CLIP ViT-L/14: that CLIP is blind where the model is, so
another one (ViT-B/16, or OpenCLIP's ViT-H/14) is the better judge.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from reversion_jax.data.relations import PLAIN, WORDS
from reversion_jax.inversion import prompts
from reversion_jax.inversion.prompts import RelationPrompt
from reversion_jax.inversion.rows import unit

Vectors = np.ndarray | jax.Array  # as `clip_features` gives them, or on the device


def entity_score(images: Vectors, sentences: Vectors) -> jax.Array:
    """ReVersion's entity accuracy score: cosine of each picture with its prompt in natural words, [N, E] twice -> [N].

    Cannot see who is who, which attribute belongs to whom, or much of the relation: CLIP reads a sentence almost as a
    bag of its words (arXiv 2210.01936), and one entity drawn well makes up for another left out.
    """
    return jnp.sum(unit(images) * unit(sentences), axis=-1)


def entity_minimum(images: Vectors, entities: Vectors) -> jax.Array:
    """The smaller of a picture's cosines with each entity's own prompt, [N, E], [N, 2, E] -> [N].

    An entity left out shows, which the entity score may hide. Cannot see mixing: a dog with a cat's ears has something
    of both. Entities that CLIP likes less in general have lower values: compare methods over the same prompts only.
    """
    return jnp.min(jnp.sum(unit(images)[:, None] * unit(entities), axis=-1), axis=-1)


def margin(images: Vectors, asked: Vectors, others: Vectors) -> jax.Array:
    """How much nearer a picture is to what was asked than to the best other, [N, E], [N, E], [N, K, E] -> [N].

    With the sentences of other relations it is the relation margin, and the share above 0 a relation accuracy. The
    entities are in all the sentences and cancel. Cannot see relations that CLIP does not tell apart ("on top of" and
    "riding on" are both true of a rider), or that the entities suggest theirs by themselves (fish, bowl: inside):
    compare with pictures drawn by the untrained row.
    With the swapped sentence ("B hugging A") it is the order margin: above 0 where the entities are in their roles. It
    says nothing of symmetric relations, and little by itself of others: real CLIPs are hardly better than chance at
    word order (arXiv 2210.01936).
    """
    rest = jnp.max(jnp.sum(unit(images)[:, None] * unit(others), axis=-1), axis=-1)
    return entity_score(images, asked) - rest


def exemplar_similarity(images: Vectors, exemplars: Vectors) -> jax.Array:
    """Leakage: each picture's cosine with the exemplar most like it, [N, E], [X, E] -> [N]; 1 is a copy.

    Cannot see what is alike: the relation should be, the exemplars' entities and style should not. Compare with
    pictures of the same prompts that the exemplars had no part in, drawn by natural words.
    """
    cosines = jnp.einsum("ne,xe->nx", unit(images), unit(exemplars), precision=jax.lax.Precision.HIGHEST)
    return jnp.max(cosines, axis=-1)


def diversity(images: Vectors) -> jax.Array:
    """1 less the mean cosine of all pairs of one prompt's pictures, [..., S, E] -> [...]; 0 if they are all the same.

    NaN for one picture. Cannot see whether any of them is right: noise is diverse.
    """
    count = images.shape[-2]
    # The sum's squared length has every pair twice, and every picture with itself once.
    squared = jnp.sum(jnp.square(jnp.sum(unit(images), axis=-2)), axis=-1)
    return 1 - (squared - count) / (count * (count - 1)) if count > 1 else jnp.full(squared.shape, jnp.nan)


def words_for(relation: str | None, words: str | None, others: Sequence[str] | None) -> tuple[str, list[str]]:
    """Natural words for a relation, and for others to tell it from; by default data/relations.py's. ValueError."""
    words = words or (WORDS | PLAIN).get(relation or "")
    if not words:
        raise ValueError(
            f"no natural words for the relation{f' {relation!r}' if relation else ''}: give --words, "
            f"or --relation with one of {', '.join(WORDS)}"
        )
    others = others or [other for name, other in WORDS.items() if name != relation]
    return words, [other for other in others if other != words]


def sentences(asked: RelationPrompt, words: str, others: Sequence[str]) -> list[str]:
    """The 4 + K texts that a picture is compared with: its sentence, the swapped one, its entities, other relations.

    words: natural words for the relation, as in data/relations.py; others: K such, for relations that it is not.
    """
    swapped = asked.swapped()
    entities = [f"a photo of {entity}" for entity in (asked.subject, asked.object)]
    return [asked.fill(words), swapped.fill(words), *entities, *(asked.fill(other) for other in others)]


def of_pictures(images: Vectors, texts: Vectors) -> dict[str, jax.Array]:
    """Every score of pictures [N, E] against their `sentences` [N, 4 + K, E], each [N], by name."""
    scores = {
        "entity_score": entity_score(images, texts[:, 0]),
        "entity_minimum": entity_minimum(images, texts[:, 2:4]),
        "order_margin": margin(images, texts[:, 0], texts[:, 1:2]),
    }
    if texts.shape[1] > 4:
        scores["relation_margin"] = margin(images, texts[:, 0], texts[:, 4:])
        scores["relation_right"] = scores["relation_margin"] > 0
    return scores


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float | None]]:
    """Each score's mean over prompts and its standard error (None for a single prompt), given the prompts' scores.

    Over prompts, because pictures of one prompt stand or fall together: counted singly they feign certainty.
    """
    found = {}
    for name in dict.fromkeys(name for each in scores for name in each):
        values = np.array([each[name] for each in scores if name in each])
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
        found[name] = (float(values.mean()), error)
    return found


def asked_for(prompt: prompts.Template, words: str) -> RelationPrompt:
    """What a prompt for drawing, or a template, asks for.

    "A <R> B", "B <R-inv> <R> A", "A hugging B" (with the relation's `words`) and "A {} B" ask for the same. ValueError
    if it has none of these marks, or not two entities that can be told apart.
    """
    if not isinstance(prompt, str):
        return _with_entities(prompts.parse(prompt))
    for mark in (f"{prompts.INVERSE} {prompts.RELATION}", prompts.RELATION, "{}", words):
        template, count = re.subn(rf"(?<!\S){re.escape(mark)}(?=[\s,.;:!?]|$)", "{}", prompt)
        if count:
            found = _with_entities(prompts.parse(template))
            return found.swapped() if mark.startswith(prompts.INVERSE) else found
    raise ValueError(f"{prompt!r} has neither {prompts.RELATION} nor {words!r} between two entities")


def _with_entities(prompt: RelationPrompt) -> RelationPrompt:
    if prompt.fault:
        raise ValueError(prompt.fault)
    return prompt
