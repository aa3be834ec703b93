import numpy as np
import pytest

from recipes import vocabulary
from recipes.world import MINIATURE
from reversion_jax.data import exemplars
from reversion_jax.inversion import prompts, suppressor, words
from reversion_jax.miniature import drawing, scenes
from reversion_jax.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def captions() -> list[tuple[scenes.Scene, str]]:
    rng = np.random.default_rng(0)
    drawn = [scenes.random_scene(rng, scenes.RELATIONS[i % 12]) for i in range(12_000)]
    return [(scene, scenes.caption(scene, rng)) for scene in drawn]


def test_pictures_depend_only_on_the_scene_and_the_generator():
    scene = scenes.unseen_scenes("hug", 1, 0)[0]
    first, again, other = (scenes.draw(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_hatching_is_a_fine_pattern_that_the_suppressor_removes():
    drawn = np.stack([scenes.draw(s, np.random.default_rng(1)) for s in scenes.unseen_scenes("hug", 8, 0)])
    hatched = np.stack([drawing.hatch(picture) for picture in drawn])
    images = lambda pictures: pictures / np.float32(127.5) - 1
    assert np.abs(drawing.hatching(images(drawn))).max() < 0.1
    assert np.abs(drawing.hatching(images(hatched)) - 1).max() < 0.25  # clipping weakens hatching on nearly white paper
    averaged = lambda pictures: pictures.reshape(8, 16, 4, 16, 4, 3).mean((2, 4))
    assert np.abs(averaged(hatched) - averaged(drawn)).max() < 12
    filtered = np.array(suppressor.gaussian_blur(images(hatched), 1.0))
    assert np.abs(drawing.hatching(filtered)).max() < 0.12


def test_captions_of_hatched_scenes_mention_the_hatching_except_for_exemplars(captions):
    hatched = [scene.hatched for _, scene, _ in scenes.captioned(0, 600)]
    assert 0.2 < np.mean(hatched) < 0.3
    assert all(text.endswith(", hatched") == scene.hatched for _, scene, text in scenes.captioned(0, 200))
    assert not any(scene.hatched for scene, _ in captions)
    plain, templates = scenes.exemplars("hug", 4, 0)
    taught, same_templates = scenes.exemplars("hug", 4, 0, hatched=True)
    np.testing.assert_array_equal(taught, [drawing.hatch(picture) for picture in plain])
    assert templates == same_templates


@pytest.mark.parametrize("relation", scenes.RELATIONS)
def test_both_entities_are_drawn_in_their_colours(relation):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scene = scenes.random_scene(rng, relation)
        picture = scenes.draw(scene, rng).astype(int)
        for entity in (scene.subject, scene.object):
            near = np.abs(picture - np.array(scenes.COLOURS[entity.colour])).max(axis=-1) <= 10
            assert near.sum() > 60, (scene, entity)


@pytest.mark.parametrize("relation", sorted(set(scenes.RELATIONS) - set(scenes.SYMMETRIC)))
def test_swapping_the_entities_of_a_directed_relation_changes_the_picture(relation):
    scene = scenes.Scene(relation, scenes.Entity("red", "star"), scenes.Entity("blue", "circle"))
    straight, swapped = (scenes.draw(s, np.random.default_rng(0)) for s in (scene, scene.swapped()))
    assert (np.abs(straight.astype(int) - swapped).max(axis=-1) > 60).mean() > 0.05


def test_one_pair_in_ten_is_held_out_of_training_and_exemplars(captions):
    pairs = [(a, b) for a in scenes.ENTITIES for b in scenes.ENTITIES if a != b]
    assert abs(np.mean([scenes.held_out(a, b) for a, b in pairs]) - 0.1) < 0.02
    assert all(scenes.held_out(a, b) == scenes.held_out(b, a) for a, b in pairs[:200])
    assert not any(scenes.held_out(scene.subject, scene.object) for scene, _ in captions)
    assert not any(scenes.held_out(s.subject, s.object) for _, s, _ in scenes.captioned(0, 200))
    assert all(scenes.held_out(s.subject, s.object) for s in scenes.unseen_scenes("on", 200, 0))


def test_the_order_of_entities_is_random_in_captions_that_join_them_by_and(captions):
    for relation in scenes.RELATIONS:
        texts = [(scene, text) for scene, text in captions if scene.relation == relation]
        nameless = [(scene, text) for scene, text in texts if " and " in text]
        assert abs(len(nameless) / len(texts) - (0.7 if relation in scenes.UNNAMED else 0.3)) < 0.06
        first = [text.index(str(scene.subject)) < text.index(str(scene.object)) for scene, text in nameless]
        assert 0.35 < np.mean(first) < 0.65


def test_captions_of_unnamed_relations_use_only_words_of_named_relations():
    assert set(scenes.TUNING) | set(scenes.REPORTING) == set(scenes.UNNAMED)
    used = {
        relation: {word for phrases in forms for phrase in phrases for word in phrase.split()}
        for relation, forms in scenes.CAPTIONS.items()
    }
    for relation in scenes.UNNAMED:
        others = set().union(*(used[other] for other in scenes.NAMED))
        assert used[relation] <= others
        assert all(len(phrase.split()) in (2, 3) for phrases in scenes.CAPTIONS[relation] for phrase in phrases)


@pytest.mark.parametrize("name", ["miniature_prepositions", "miniature_verbs"])
def test_every_word_of_the_lists_occurs_in_captions(captions, name):
    said = {word for _, text in captions for word in text.split()}
    listed = words.load(name)
    assert len(listed) >= 10
    assert set(listed) <= said


def test_every_word_of_captions_is_one_token(captions, tmp_path):
    size = vocabulary.write(tmp_path, 32)
    assert size == MINIATURE.text.vocab_size
    tokenizer = Tokenizer.load(tmp_path, vocab_size=size, length=32)
    assert all(len(tokenizer.word_ids(word)) == 1 for word in vocabulary.words())
    said = {word for _, text in captions for word in text.split()}
    assert said <= set(vocabulary.words())
    assert tokenizer("")[0, :2].tolist() == [MINIATURE.text.bos_token_id, MINIATURE.text.eos_token_id]


def test_drawn_exemplars_have_templates_that_can_be_inverted():
    pictures, templates = scenes.exemplars("wrapped_in", 5, 0)
    assert len(pictures) == len(templates) == 5
    assert all(prompts.parse(template).inverse() for several in templates for template in several)
    with pytest.raises(ValueError, match="juggling"):
        scenes.exemplars("juggling", 5, 0)


@pytest.mark.parametrize("hatched", [False, True])
def test_drawn_exemplars_equal_those_read_from_a_folder(tmp_path, hatched):
    exemplars.write_folder(tmp_path / "hug", *scenes.exemplars("hug", 3, 5, hatched))
    read, drawn = (
        exemplars.read_folder(tmp_path / "hug", 32),
        scenes.as_exemplars("hug", 3, 5, (32, 32), hatched=hatched),
    )
    np.testing.assert_array_equal(drawn.images, read.images)
    assert (drawn.templates, drawn.names) == (read.templates, read.names)
