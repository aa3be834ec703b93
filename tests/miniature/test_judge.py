import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.judge import SPOILINGS
from reversion_jax.evaluation import scores
from reversion_jax.miniature import judge, scenes

pytestmark = pytest.mark.usefixtures("optimised")

JUDGED = Path(__file__).parent / "judged"


def judged(pictures, asked):
    verdict = judge.look(np.stack(pictures).astype(np.float32) / 127.5 - 1)
    return judge.right(verdict, asked)


def fresh(count, seed):
    """Yields scenes of all relations, each with a random generator. Every second scene has an unseen pair of entities.

    The seeds differ from the seeds of the judge's training.
    """
    for index in range(count):
        rng = np.random.default_rng([1234, seed, index])
        relation = scenes.RELATIONS[index % len(scenes.RELATIONS)]
        yield scenes.random_scene(rng, relation, unseen=bool(index % 2)), rng


def test_the_judge_accepts_99_percent_of_fresh_scenes():
    drawn = [(scene, scenes.draw(scene, rng)) for scene, rng in fresh(1200, 0)]
    relation, entities = judged([p for _, p in drawn], [s for s, _ in drawn])
    assert (relation & entities).mean() >= 0.99


@pytest.mark.parametrize("kind", SPOILINGS)
def test_the_judge_rejects_spoilt_scenes(kind):
    # Blending a shape with the same shape does not spoil the scene.
    drawn = [
        (scene, scenes.draw_spoilt(scene, kind, rng))
        for scene, rng in fresh(480, 1)
        if kind != "morphed" or scene.subject.shape != scene.object.shape
    ]
    relation, entities = judged([p for _, p in drawn], [s for s, _ in drawn])
    assert (relation & entities).mean() <= 0.05


def test_swapped_entities_are_wrong_unless_the_relation_is_symmetric():
    drawn = [(scene, scenes.draw(scene.swapped(), rng)) for scene, rng in fresh(480, 2)]
    _, entities = judged([p for _, p in drawn], [s for s, _ in drawn])
    directed = np.array([scene.relation not in scenes.SYMMETRIC for scene, _ in drawn])
    assert entities[directed].mean() <= 0.05
    assert entities[~directed].mean() >= 0.95


def test_verdicts_do_not_depend_on_the_number_of_pictures():
    drawn = [scenes.draw(scene, rng) for scene, rng in fresh(70, 3)]
    images = np.stack(drawn).astype(np.float32) / 127.5 - 1
    whole, few = judge.look(images), judge.look(images[:3])
    np.testing.assert_array_equal(np.stack(whole)[:, :3], np.stack(few))
    assert len(few.names()) == 3


def test_swapped_entities_count_as_right_if_the_picture_shows_another_relation():
    red, blue = scenes.Entity("red", "star"), scenes.Entity("blue", "heart")
    numbers = lambda relation, a, b: [[v] for v in judge.labels(scenes.Scene(relation, a, b))]
    see = lambda *scene: judge.Verdict(*map(np.array, numbers(*scene)))
    asked = [scenes.Scene("on", red, blue)]
    assert [x.item() for x in judge.right(see("on", red, blue), asked)] == [True, True]
    assert [x.item() for x in judge.right(see("on", blue, red), asked)] == [True, False]
    assert [x.item() for x in judge.right(see("beside", blue, red), asked)] == [False, True]
    assert [x.item() for x in judge.right(see("on", red, red), asked)] == [True, False]


def test_entities_are_fused_if_they_exchange_or_blend_properties():
    names = {"mixed": judge.ABSENT}
    names |= {name: list(scenes.COLOURS).index(name) for name in ("red", "blue", "green")}
    names |= {name: list(scenes.SHAPES).index(name) for name in ("star", "heart", "moon")}
    asked = [scenes.Scene("on", scenes.Entity("red", "star"), scenes.Entity("blue", "heart"))]
    for seen, wanted in (
        ("red star blue heart", False),
        ("blue heart red star", False),  # swapped, but not fused
        ("red heart blue star", True),
        ("red star red heart", True),
        ("mixed star mixed heart", True),
        ("red mixed blue mixed", True),
        ("red star mixed mixed", False),  # one entity is missing
        ("green star blue heart", False),  # the wrong colour is not that of the other entity
        ("red moon blue heart", False),
    ):
        verdict = judge.Verdict(*(np.array([value]) for value in (0, *(names[word] for word in seen.split()))))
        assert judge.fused(verdict, asked).item() == wanted, seen
    alike = [scenes.Scene("on", scenes.Entity("red", "star"), scenes.Entity("blue", "star"))]
    verdict = judge.Verdict(*(np.array([names.get(word, 0)]) for word in ["on", "red", "star", "blue", "star"]))
    assert not judge.fused(verdict, alike).item()


@pytest.mark.parametrize(("kind", "low", "high"), [("fused", 0.9, 1), ("morphed", 0.8, 1), ("subject missing", 0, 0.1)])
def test_fused_and_morphed_scenes_are_recognised_as_fused(kind, low, high):
    drawn = [
        (scene, scenes.draw_spoilt(scene, kind, rng))
        for scene, rng in fresh(480, 1)
        if scene.subject.shape != scene.object.shape
    ]
    verdict = judge.look(np.stack([p for _, p in drawn]).astype(np.float32) / 127.5 - 1)
    assert low <= judge.fused(verdict, [s for s, _ in drawn]).mean() <= high


def test_clean_scenes_are_not_fused():
    drawn = [(scene, scenes.draw(scene, rng)) for scene, rng in fresh(480, 5)]
    verdict = judge.look(np.stack([p for _, p in drawn]).astype(np.float32) / 127.5 - 1)
    assert judge.fused(verdict, [s for s, _ in drawn]).mean() <= 0.02


def test_features_recognise_leaked_pictures_and_copies():
    """Pictures with the entities of an exemplar are nearer to the exemplars than pictures with unseen entities.

    Copies of one picture have diversity 0.
    """
    taught, _ = scenes.exemplars("hug", 8, seed=0)
    again = [
        scenes.random_scene(np.random.default_rng([7, 0, i, scenes.RELATIONS.index("hug")]), "hug") for i in range(8)
    ]
    rng = np.random.default_rng(5)
    leaked = np.stack([scenes.draw(scene, rng) for scene in again])
    unseen = np.stack([scenes.draw(scene, rng) for scene in scenes.unseen_scenes("hug", 8, 22)])
    taught, leaked, unseen = (judge.features(x / np.float32(127.5) - 1) for x in (taught, leaked, unseen))
    assert taught.shape == (8, 320)
    near = np.asarray(scores.exemplar_similarity(leaked, taught))
    far = np.asarray(scores.exemplar_similarity(unseen, taught))
    assert (near[:, None] > far[None]).mean() > 0.9
    assert scores.diversity(np.stack([taught[0]] * 4)) == pytest.approx(0, abs=1e-5)
    one_pair = [scenes.draw(again[0], rng) / np.float32(127.5) - 1 for _ in range(8)]
    assert 0.01 < scores.diversity(judge.features(np.stack(one_pair))) < scores.diversity(taught)


def test_the_judge_agrees_with_human_labels_on_generated_pictures():
    """150 pictures by the methods of an evaluation were labelled by eye, before anyone saw the judge's verdicts.

    pictures.png has the pictures in rows of 15. labels.json says what each picture should show and whether it shows
    this.
    """
    sheet = np.asarray(Image.open(JUDGED / "pictures.png"))
    labels = json.loads((JUDGED / "labels.json").read_text())
    assert len(labels) == 150
    tiles = sheet.reshape(10, 64, 15, 64, 3).swapaxes(1, 2).reshape(150, 64, 64, 3)
    entity = lambda name: scenes.Entity(*name.split())
    asked = [scenes.Scene(label["relation"], entity(label["subject"]), entity(label["object"])) for label in labels]
    relation, entities = judged(tiles, asked)
    of_eyes = np.array([[label["relation_right"], label["entities_right"]] for label in labels])
    assert 0.2 < of_eyes.all(axis=1).mean() < 0.8  # the labels "right" and "wrong" both occur often enough
    assert (relation == of_eyes[:, 0]).mean() >= 0.95
    assert (entities == of_eyes[:, 1]).mean() >= 0.95
    assert ((relation & entities) == of_eyes.all(axis=1)).mean() >= 0.95
