"""Tests the scores that CLIP gives in an evaluation, and the classifier of relations."""

import json
import sys

import numpy as np
import pytest
import tiny
import tiny_clip
from PIL import Image

from reversion_jax.evaluation import by_clip, clip_features, scores
from reversion_jax.evaluation.classifier import fit
from reversion_jax.inversion.prompts import parse


def features(count: int, seed: int, apart: float) -> dict[str, np.ndarray]:
    """Returns unit vectors [count, 16] for each of three relations.

    The larger `apart` is, the easier the relations are to separate.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, count, 16)) + apart * np.eye(3, 16)[:, None]
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return dict(zip(("hug", "on", "inside"), values, strict=True))


def test_separable_features_are_classified():
    classifier = fit(features(8, 0, 8.0))
    assert classifier.held_out == 1
    for relation, unseen in features(20, 1, 8.0).items():
        assert (classifier.predict(unseen) == relation).mean() > 0.95
    assert classifier.describe() == "classifier of relations: right on 100% of held-out exemplars (chance 33%)"


def test_features_without_information_are_classified_at_chance():
    found = [fit(features(8, seed, 0.0)).held_out for seed in range(12)]
    assert np.mean(found) == pytest.approx(1 / 3, abs=0.1)


def test_a_relation_with_few_exemplars_is_recognised_beside_a_relation_with_many():
    many, unseen = features(60, 2, 2.0), features(200, 3, 2.0)
    classifier = fit({"hug": many["hug"][:6], "on": many["on"]})
    assert (classifier.predict(unseen["hug"]) == "hug").mean() > 0.7
    assert (classifier.predict(unseen["on"]) == "on").mean() > 0.7


def test_a_missing_scikit_learn_is_reported_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ValueError, match=r"needs scikit-learn: pip install 'reversion_jax\[benchmark\]'"):
        fit(features(3, 0, 1.0))


WORDS = {"hug": "hugging", "on": "on top of", "inside": "inside"}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    shapes = json.loads((tiny_clip.RECORDED / "clip_shapes.json").read_text())
    folder = tiny_clip.write_folder(tmp_path_factory.mktemp("clip"), tiny.torch_weights(shapes, seed=3)["clip"])
    rng = np.random.default_rng(0)
    shown = {relation: rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32) for relation in WORDS}
    return by_clip.load(str(folder), shown, WORDS)


def test_there_is_no_classifier_if_a_relation_has_a_single_exemplar(scorer):
    shown = {relation: np.zeros((1 + (relation == "on"), 32, 32, 3), np.uint8) for relation in WORDS}
    by = by_clip.ByClip(scorer._clip, shown, WORDS)
    assert by.classifier is None
    assert by.describe().startswith("no classifier of relations")


def test_each_score_of_a_prompt_is_a_mean_over_its_pictures(scorer, tmp_path):
    """The means are over the values that scores.py gives for single pictures."""
    prompts = [parse("cat {} dog"), parse("bear {} hat")]
    rng = np.random.default_rng(1)
    drawn = [[tmp_path / f"{i}-{k}.png" for k in range(3)] for i in range(2)]
    for file in (file for own in drawn for file in own):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(file)
    found = scorer("on", prompts, drawn)
    assert set(found) == {metric.name for metric in by_clip.METRICS}
    for i, prompt in enumerate(prompts):
        images = clip_features.of_pictures(scorer._clip, drawn[i])
        texts = clip_features.of_sentences(scorer._clip, [scores.sentences(prompt, "on top of", ["hugging", "inside"])])
        alone = {n: np.asarray(v) for n, v in scores.of_pictures(images, np.repeat(texts, 3, axis=0)).items()}
        assert found["entity_score"][i] == pytest.approx(alone["entity_score"].mean(), abs=1e-6)
        assert found["entity_minimum"][i] == pytest.approx(alone["entity_minimum"].mean(), abs=1e-6)
        assert found["zero_shot"][i] == pytest.approx(np.mean(alone["relation_margin"] > 0), abs=1e-6)
        assert found["order_right"][i] == pytest.approx(np.mean(alone["order_margin"] > 0), abs=1e-6)
        assert found["classified"][i] == pytest.approx(np.mean(scorer.classifier.predict(images) == "on"), abs=1e-6)
        assert found["diversity"][i] == pytest.approx(float(scores.diversity(images)), abs=1e-6)


def test_symmetric_relations_have_no_score_of_order_and_one_picture_has_no_diversity(scorer, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    found = scorer("hug", [parse("cat {} dog")], [[tmp_path / "0.png"]])
    assert set(found) == {"classified", "zero_shot", "entity_score", "entity_minimum", "leakage"}


def test_a_drawn_copy_of_an_exemplar_has_a_leakage_of_one(scorer, tmp_path):
    rng = np.random.default_rng(0)
    # These pictures equal the exemplars of the first relation in the fixture `scorer`.
    shown = rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    Image.fromarray(np.round((shown[2] + 1) * 127.5).astype(np.uint8)).save(tmp_path / "0.png")
    found = scorer("hug", [parse("cat {} dog")], [[tmp_path / "0.png"]])
    assert found["leakage"][0] == pytest.approx(1, abs=1e-5)
