import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reversion_jax.miniature import pretrain, scenes


@jax.jit
def walk(state, batch):
    """A training step whose result depends on every batch and on their order."""
    return {"w": state["w"] * 0.9 + jnp.sum(batch)}, {"sum": jnp.sum(batch)}


def batch_fn(step):
    return np.random.default_rng(step).normal(size=(jax.device_count(), 3)).astype(np.float32)


def test_an_interrupted_stage_goes_on_to_the_step(tmp_path):
    start = {"w": jnp.zeros(3)}
    whole = pretrain.fit("walk", start, walk, batch_fn, 12, tmp_path / "whole")

    def breaks(step):
        if step == 7:
            raise InterruptedError
        return batch_fn(step)

    with pytest.raises(InterruptedError):
        pretrain.fit("walk", start, walk, breaks, 12, tmp_path / "cut")
    np.testing.assert_array_equal(pretrain.fit("walk", start, walk, batch_fn, 12, tmp_path / "cut")["w"], whole["w"])
    finished = pretrain.fit("walk", start, walk, lambda step: 1 / 0, 12, tmp_path / "cut")
    np.testing.assert_array_equal(finished["w"], whole["w"])


def test_a_stage_that_diverges_says_where(tmp_path):
    with pytest.raises(FloatingPointError, match="walk: not finite at step 0"):
        pretrain.fit("walk", {"w": jnp.zeros(3)}, walk, lambda step: np.full((1, 3), np.nan, np.float32), 3, tmp_path)


def test_batches_are_a_function_of_seed_stage_and_step():
    world = pretrain.World(pretrain.Recipe(num_scenes=24))
    draws = [world.draw_batch(stage, step, 16)[0].tolist() for stage in ("vae", "unet") for step in (0, 1)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert world.draw_batch("vae", 0, 16)[0].tolist() == draws[0]
    assert world.images(np.arange(2)).min() >= -1
    assert {scene.relation for scene in world.scenes} == set(scenes.RELATIONS)


def test_labels_follow_the_text():
    scene = scenes.Scene("on", scenes.Entity("red", "star"), scenes.Entity("blue", "heart"))
    on, red, star = scenes.RELATIONS.index("on"), 0, list(scenes.SHAPES).index("star")
    blue, heart = list(scenes.COLOURS).index("blue"), list(scenes.SHAPES).index("heart")
    label = lambda text: pretrain.caption_labels(scene, text)
    assert label("red star on blue heart") == [on, red, star, blue, heart]
    assert label("blue heart supporting red star") == [on, red, star, blue, heart]
    assert label("blue heart and red star") == [12, blue, heart, red, star]


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match="another recipe"):
        pretrain.pretrain(tmp_path)
