"""Tests the scores that the miniature model's judge gives in an evaluation."""

import numpy as np
from PIL import Image

from reversion_jax.evaluation import judged
from reversion_jax.inversion.prompts import RelationPrompt
from reversion_jax.miniature import scenes


def test_each_score_of_the_judge_is_a_share_of_the_pictures_of_a_prompt(tmp_path):
    """Each prompt has one picture with the relation that the prompt asks for, and one picture with another relation."""
    shown = scenes.unseen_scenes("on", 6, seed=3)
    prompts = [RelationPrompt("{subject} {} {object}", str(s.subject), str(s.object)) for s in shown]
    rng, drawn = np.random.default_rng(0), []
    for i, scene in enumerate(shown):
        drawn.append([tmp_path / f"{i}-{k}.png" for k in range(2)])
        other = scenes.Scene("beside", scene.subject, scene.object)
        for file, each in zip(drawn[-1], (scene, other), strict=True):
            Image.fromarray(scenes.draw(each, rng)).save(file)
    found = judged.score("on", prompts, drawn)
    assert set(found) == {metric.name for metric in judged.METRICS}
    assert found["relation"] == [0.5] * 6
    assert np.mean(found["entities"]) > 0.9
    assert found["both"] == [0.5] * 6
    assert found["fused"] == found["leaked"] == [0] * 6
