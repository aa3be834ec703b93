"""Scores an evaluation's pictures by miniature/judge.py: computes the shares of right, fused and leaked pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reversion_jax.evaluation.cells import Scores
from reversion_jax.evaluation.tables import Metric
from reversion_jax.inversion.prompts import RelationPrompt
from reversion_jax.miniature import judge, scenes

NAME = "the miniature's judge"
METRICS = (
    Metric("relation", "relation right"),
    Metric("entities", "both entities right"),
    Metric("both", "all right"),
    Metric("fused", "fused"),
    Metric("leaked", "leaked"),
)
BY_RELATION = ("both", "relation", "entities", "fused")  # metrics that get a table by relation


def score(relation: str, prompts: Sequence[RelationPrompt], files: Sequence[Sequence[Path]]) -> Scores:
    """Returns, for each metric and prompt, the share of pictures for which the metric is true (miniature/judge.py)."""
    images = np.stack([np.asarray(Image.open(file)) for own in files for file in own]) / np.float32(127.5) - 1
    asked = [_scene(relation, prompt) for prompt, own in zip(prompts, files, strict=True) for _ in own]
    verdict = judge.look(images)
    right, entities = judge.right(verdict, asked)
    seen = {
        "relation": right,
        "entities": entities,
        "both": right & entities,
        "fused": judge.fused(verdict, asked),
        "leaked": judge.leaked(images),
    }
    return {name: values.reshape(len(files), -1).mean(1).tolist() for name, values in seen.items()}


def _scene(relation: str, prompt: RelationPrompt) -> scenes.Scene:
    subject, object_ = (scenes.Entity(*entity.split()) for entity in (prompt.subject, prompt.object))
    return scenes.Scene(relation, subject, object_)
