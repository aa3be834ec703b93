import dataclasses

import numpy as np
import pytest

from recipes import pretrain
from recipes.world import Recipe, World
from reversion_jax.miniature import scenes


def test_batches_depend_on_seed_stage_and_step_only():
    world = World(Recipe(num_scenes=24))
    draws = [world.draw_batch(stage, step, 16)[0].tolist() for stage in ("vae", "unet") for step in (0, 1)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert world.draw_batch("vae", 0, 16)[0].tolist() == draws[0]
    assert world.images(np.arange(2)).min() >= -1
    assert {scene.relation for scene in world.scenes} == set(scenes.RELATIONS)


def test_labels_of_a_scene_follow_its_caption():
    scene = scenes.Scene("on", scenes.Entity("red", "star"), scenes.Entity("blue", "heart"))
    on, red, star = scenes.RELATIONS.index("on"), 0, list(scenes.SHAPES).index("star")
    blue, heart = list(scenes.COLOURS).index("blue"), list(scenes.SHAPES).index("heart")
    label = lambda text: pretrain.caption_labels(scene, text)
    assert label("red star on blue heart") == [on, red, star, blue, heart, 0]
    assert label("blue heart supporting red star") == [on, red, star, blue, heart, 0]
    assert label("blue heart and red star") == [12, blue, heart, red, star, 0]
    scene = dataclasses.replace(scene, hatched=True)
    assert label("red star on blue heart, hatched") == [on, red, star, blue, heart, 1]


def test_a_folder_made_by_another_recipe_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match="another recipe"):
        pretrain.pretrain(tmp_path, Recipe())
