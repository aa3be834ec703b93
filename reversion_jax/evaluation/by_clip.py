"""Scores the pictures of an evaluation by a CLIP model: computes ReVersion's automatic scores and those of scores.py.

Relation accuracy is measured in two ways. `classified` is ReVersion's way: a classifier is fitted on the CLIP features
of the exemplars, and the score is the share of pictures that the classifier assigns to the relation that they should
show. `zero_shot` needs no exemplars: it is the share of pictures that are more similar to their sentence, which
describes the relation in natural words such as "next to", than to the same sentence with any other relation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reversion_jax.data.relations import SYMMETRIC
from reversion_jax.drawing import generate
from reversion_jax.evaluation import clip_features, scores
from reversion_jax.evaluation.cells import Scores
from reversion_jax.evaluation.classifier import Classifier, fit
from reversion_jax.evaluation.tables import Metric
from reversion_jax.inversion.prompts import RelationPrompt

METRICS = (
    Metric("classified", "relation, classified"),
    Metric("zero_shot", "relation, zero-shot"),
    Metric("entity_score", "entity score", percent=False),
    Metric("entity_minimum", "weaker entity", percent=False),
    Metric("order_right", "order right"),
    Metric("leakage", "nearest exemplar", percent=False),
    Metric("diversity", "diversity", percent=False),
)
BY_RELATION = ("classified", "zero_shot", "entity_score")  # metrics that get a table by relation, as in the papers


class ByClip:
    """Scores pictures by CLIP features, given the exemplars and natural words of every relation."""

    def __init__(self, clip: clip_features.Clip, exemplars: Mapping[str, np.ndarray], words: Mapping[str, str]):
        """Computes the exemplars' features, and fits the classifier if there are enough relations and exemplars.

        exemplars: each relation's pictures, uint8 [X, H, W, 3], as training uses them.
        words: natural words for each relation.
        Raises ValueError if scikit-learn is missing.
        """
        self._clip, self._words = clip, words
        opened = {relation: [Image.fromarray(image) for image in images] for relation, images in exemplars.items()}
        self._exemplars = {relation: clip_features.of_pictures(clip, images) for relation, images in opened.items()}
        can_tell = len(exemplars) > 1 and min(map(len, exemplars.values())) > 1
        self.classifier: Classifier | None = fit(self._exemplars) if can_tell else None

    def __call__(self, relation: str, prompts: Sequence[RelationPrompt], files: Sequence[Sequence[Path]]) -> Scores:
        """Returns the mean of each score over the pictures of each prompt."""
        count = len(files[0])
        images = clip_features.of_pictures(self._clip, [file for own in files for file in own])
        others = [words for other, words in self._words.items() if other != relation]
        sentences = [scores.sentences(prompt, self._words[relation], others) for prompt in prompts]
        texts = np.repeat(clip_features.of_sentences(self._clip, sentences), count, axis=0)
        seen = {name: np.asarray(values, float) for name, values in scores.of_pictures(images, texts).items()}
        found = {"entity_score": seen["entity_score"], "entity_minimum": seen["entity_minimum"]}
        if others:
            found["zero_shot"] = seen["relation_right"]
        if relation not in SYMMETRIC:
            found["order_right"] = seen["order_margin"] > 0
        if self.classifier:
            found["classified"] = self.classifier.predict(images) == relation
        found["leakage"] = np.asarray(scores.exemplar_similarity(images, self._exemplars[relation]))
        means = {name: values.reshape(len(files), count).mean(1) for name, values in found.items()}
        if count > 1:
            means["diversity"] = np.asarray(scores.diversity(images.reshape(len(files), count, -1)))
        return {name: [float(value) for value in values] for name, values in means.items()}

    def describe(self) -> str:
        """Returns a text about the accuracy of the classifier."""
        none = "no classifier of relations: it needs two relations, and two exemplars of each"
        return self.classifier.describe() if self.classifier else none


def load(clip: str, exemplars: Mapping[str, np.ndarray], words: Mapping[str, str]) -> ByClip:
    """Returns a scorer that uses a CLIP model. Raises ValueError or OSError if the model cannot be used.

    clip: a folder or a hub id. exemplars: each relation's pictures, float [X, H, W, 3] in [-1, 1]. words: see `ByClip`.
    """
    shown = {relation: generate.to_uint8(images) for relation, images in exemplars.items()}
    return ByClip(clip_features.load(clip), shown, words)
