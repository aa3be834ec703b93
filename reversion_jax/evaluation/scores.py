"""Computes scores of pictures from feature vectors of pictures and texts, such as the vectors of a CLIP model.

Every function compares vectors by their cosine, so the vectors' lengths do not matter. In shapes, E is the width of the
feature space, K the number of other sentences, S the number of pictures of one prompt, and X the number of exemplars.
Each docstring says what its score cannot measure. Stable Diffusion 1.x reads prompts with the text encoder of CLIP
ViT-L/14. As a judge, CLIP ViT-L/14 would have the same weaknesses as Stable Diffusion, so another CLIP (ViT-B/16, or
OpenCLIP's ViT-H/14) judges more independently.
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

Vectors = np.ndarray | jax.Array  # from clip_features.py, or arrays on a device


def entity_score(images: Vectors, sentences: Vectors) -> jax.Array:
    """Returns ReVersion's entity accuracy score [N]: the cosine of each picture with its prompt in natural words.

    images, sentences: vectors of the pictures and of their sentences, [N, E] each.
    This score cannot measure which entity is which, which attribute belongs to which entity, or much of the relation:
    CLIP reads a sentence almost as a bag of its words (arXiv 2210.01936). One well drawn entity makes up for a missing
    entity.
    """
    return jnp.sum(unit(images) * unit(sentences), axis=-1)


def entity_minimum(images: Vectors, entities: Vectors) -> jax.Array:
    """Returns for each picture the smaller of its cosines with the prompts of its two entities, [N].

    images: vectors of the pictures, [N, E]. entities: vectors of the prompts of their entities, [N, 2, E].
    Unlike the entity score, this score is low if an entity is missing. This score cannot measure mixing: a dog with a
    cat's ears is like a dog and like a cat. Some entities have lower cosines than other entities with any picture, so
    compare methods only over the same prompts.
    """
    return jnp.min(jnp.sum(unit(images)[:, None] * unit(entities), axis=-1), axis=-1)


def margin(images: Vectors, asked: Vectors, others: Vectors) -> jax.Array:
    """Returns by how much the cosine with the prompt's sentence exceeds the largest cosine with another sentence, [N].

    images, asked: vectors of the pictures and of their prompts' sentences, [N, E] each. others: vectors of the other
    sentences, [N, K, E].
    If `others` are the sentences with other relations, the result is the relation margin, and the share of margins
    above 0 is a relation accuracy. Sentences with other relations have the same entities, so only the relation counts.
    The relation margin cannot measure relations that CLIP does not tell apart ("on top of" and "riding on" are both
    true of a rider). Some entities suggest a relation by themselves (fish and bowl: inside), so compare with pictures
    drawn with the untrained row.
    If `others` has only the sentence with swapped entities ("B hugging A"), the result is the order margin. If the
    order margin is above 0, the entities have the right roles. The order margin has no meaning for symmetric relations.
    For directed relations the order margin says little: published CLIP models are hardly better than chance at word
    order (arXiv 2210.01936).
    """
    rest = jnp.max(jnp.sum(unit(images)[:, None] * unit(others), axis=-1), axis=-1)
    return entity_score(images, asked) - rest


def exemplar_similarity(images: Vectors, exemplars: Vectors) -> jax.Array:
    """Returns the leakage [N]: each picture's cosine with the most similar exemplar; 1 means a copy.

    images: vectors of the pictures, [N, E]. exemplars: vectors of the exemplars, [X, E].
    The leakage cannot measure what is similar: the relation should be similar, but entities and style should not.
    Compare with pictures of the same prompts drawn with natural words, on which the exemplars had no influence.
    """
    cosines = jnp.einsum("ne,xe->nx", unit(images), unit(exemplars), precision=jax.lax.Precision.HIGHEST)
    return jnp.max(cosines, axis=-1)


def diversity(images: Vectors) -> jax.Array:
    """Returns 1 minus the mean cosine of all pairs of pictures of one prompt; 0 if all pictures are the same.

    images: vectors of the pictures, [..., S, E]. The result has the shape [...], and is NaN if S is 1.
    The diversity cannot measure whether any picture is right: noise is diverse.
    """
    count = images.shape[-2]
    # The squared length of the vectors' sum is the sum of all cosines: each pair twice, each picture with itself once.
    squared = jnp.sum(jnp.square(jnp.sum(unit(images), axis=-2)), axis=-1)
    return 1 - (squared - count) / (count * (count - 1)) if count > 1 else jnp.full(squared.shape, jnp.nan)


def words_for(relation: str | None, words: str | None, others: Sequence[str] | None) -> tuple[str, list[str]]:
    """Returns natural words for a relation, and for other relations to compare with.

    relation: a relation in data/relations.py, where its default words are. words, others: words that replace the
    default. Raises ValueError if there are no words for the relation.
    """
    words = words or (WORDS | PLAIN).get(relation or "")
    if not words:
        raise ValueError(
            f"no natural words for the relation{f' {relation!r}' if relation else ''}: give --words, "
            f"or --relation with one of {', '.join(WORDS)}"
        )
    others = others or [other for name, other in WORDS.items() if name != relation]
    return words, [other for other in others if other != words]


def sentences(asked: RelationPrompt, words: str, others: Sequence[str]) -> list[str]:
    """Returns the 4 + K texts that a picture is compared with.

    The texts are the picture's sentence, the sentence with swapped entities, a text for each entity, and K sentences
    with the words of other relations. words: natural words for the relation. others: K natural words for other
    relations.
    """
    swapped = asked.swapped()
    entities = [f"a photo of {entity}" for entity in (asked.subject, asked.object)]
    return [asked.fill(words), swapped.fill(words), *entities, *(asked.fill(other) for other in others)]


def of_pictures(images: Vectors, texts: Vectors) -> dict[str, jax.Array]:
    """Returns all scores of pictures, [N] each, by name.

    images: vectors of the pictures, [N, E]. texts: vectors of the pictures' `sentences`, [N, 4 + K, E].
    """
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
    """Returns each score's mean over prompts and the mean's standard error, which is None for a single prompt.

    scores: the scores of each prompt. The standard error is computed over prompts, because pictures of one prompt are
    not independent, so an error over pictures would be too small.
    """
    found = {}
    for name in dict.fromkeys(name for each in scores for name in each):
        values = np.array([each[name] for each in scores if name in each])
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
        found[name] = (float(values.mean()), error)
    return found


def asked_for(prompt: prompts.Template, words: str) -> RelationPrompt:
    """Returns the entities that a prompt or a template asks for, and their order.

    "A <R> B", "B <R-inv> <R> A", "A {} B" and, with the relation's natural `words`, "A hugging B" ask for the same.
    Raises ValueError if the prompt has none of these marks (<R>, {} or `words`) for the relation, or if its entities
    cannot be told apart.
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
    """Returns the prompt unchanged. Raises ValueError if its entities cannot be told apart."""
    if prompt.fault:
        raise ValueError(prompt.fault)
    return prompt
