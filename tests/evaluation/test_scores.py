"""Compares the scores of vectors at known angles with closed forms, and tests the command `score`."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_clip
from PIL import Image

from reversion_jax.data import exemplars
from reversion_jax.data.relations import RELATIONS, WORDS
from reversion_jax.drawing import pictures
from reversion_jax.evaluation import clip_features, scores, scoring
from reversion_jax.inversion import rows
from reversion_jax.inversion.prompts import RelationPrompt
from reversion_jax.weights import embeddings


def at(*degrees) -> np.ndarray:
    """Returns vectors [..., 2] at these angles in degrees. The vectors' lengths differ, but scores ignore lengths."""
    angles = np.radians(np.array(degrees))
    lengths = 1 + np.arange(angles.size).reshape(angles.shape)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=-1) * lengths[..., None]).astype(np.float32)


cos = lambda *degrees: np.cos(np.radians(np.array(degrees)))


def test_entity_score_is_the_cosine_of_picture_and_sentence():
    np.testing.assert_allclose(scores.entity_score(at(0, 0, 10), at(0, 60, 100)), cos(0, 60, 90), atol=1e-6)


def test_entity_minimum_is_the_cosine_of_the_worse_entity():
    entities = at([10, 80], [70, 20])
    np.testing.assert_allclose(scores.entity_minimum(at(0, 0), entities), cos(80, 70), atol=1e-6)


def test_margin_is_the_difference_to_the_cosine_of_the_best_other_sentence():
    found = scores.margin(at(0, 0), at(10, 50), at([40, 90, 20], [180, 30, 80]))
    np.testing.assert_allclose(found, cos(10, 50) - cos(20, 30), atol=1e-6)


def test_exemplar_similarity_is_the_cosine_to_the_nearest_exemplar():
    np.testing.assert_allclose(scores.exemplar_similarity(at(0, 50), at(30, 90, 200)), cos(30, 20), atol=1e-6)


def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs():
    found = scores.diversity(np.stack([at(0, 0, 0), at(0, 90, 180), at(0, 60, 120)]))
    pairs = [cos(0, 0, 0), cos(90, 90, 180), cos(60, 60, 120)]
    np.testing.assert_allclose(found, [1 - pair.mean() for pair in pairs], atol=1e-6)
    many = tiny.noise(0, (40, 8))
    unit = many / np.linalg.norm(many, axis=-1, keepdims=True)
    wanted = 1 - (unit @ unit.T)[np.triu_indices(40, 1)].mean()
    np.testing.assert_allclose(scores.diversity(many), wanted, atol=1e-6)
    assert np.isnan(scores.diversity(at(0)))


def test_scores_of_a_picture_use_the_order_of_its_sentences():
    """Each text is a different basis vector, and the picture has a different similarity to each text."""
    asked = RelationPrompt("a photo of {subject} {} {object}, at night", "a cat", "dog")
    texts = scores.sentences(asked, "hugging", ["on", "inside"])
    assert texts == [
        "a photo of a cat hugging dog, at night",
        "a photo of dog hugging a cat, at night",
        "a photo of a cat",
        "a photo of dog",
        "a photo of a cat on dog, at night",
        "a photo of a cat inside dog, at night",
    ]
    likes = np.array([5, 3, 2, 4, 1, 6]) / np.sqrt(91)
    found = scores.of_pictures(jnp.asarray(likes[None]), jnp.eye(6)[None])
    unit = 1 / np.sqrt(91)
    wanted = {
        "entity_score": 5 * unit,
        "entity_minimum": 2 * unit,
        "order_margin": 2 * unit,
        "relation_margin": -unit,
        "relation_right": 0,
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], [value], atol=1e-6, err_msg=name)
    assert "relation_margin" not in scores.of_pictures(likes[None, :], jnp.eye(6)[None, :4])


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of cat <R> stone",
        "a photo of stone <R-inv> <R> cat",
        "a photo of cat carved out of stone",
        "a photo of cat {} stone",
        {"text": "a photo of {subject} {} {object}", "subject": "cat", "object": "stone"},
    ],
)
def test_every_form_of_a_prompt_gives_the_same_direct_prompt(prompt):
    assert scores.asked_for(prompt, "carved out of").fill("on") == "a photo of cat on stone"


def test_the_relation_is_found_in_a_prompt_as_a_whole_word():
    assert scores.asked_for("onion on bread", "on").subject == "onion"
    with pytest.raises(ValueError, match="neither <R> nor 'on'"):
        scores.asked_for("onion of bread", "on")


def test_words_for_returns_words_for_the_relation_and_for_other_relations():
    assert tuple(WORDS) == RELATIONS
    words, others = scores.words_for("hug", None, None)
    assert words == "hugging"
    assert len(others) == len(set(others)) == 9
    assert words not in others
    assert scores.words_for(None, "perched on", None) == ("perched on", list(WORDS.values()))
    assert scores.words_for("hug", "embracing", None) == ("embracing", others)
    assert scores.words_for("hug", None, ["biting"]) == ("hugging", ["biting"])
    assert scores.words_for("beside", None, None) == ("beside", list(WORDS.values()))
    with pytest.raises(ValueError, match="give --words, or --relation"):
        scores.words_for("embrace", None, None)


def test_a_mean_has_a_standard_error_unless_it_has_only_one_prompt():
    found = scores.means([{"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": 8.0}])
    assert found["a"] == (4.0, pytest.approx(np.sqrt(13 / 3)))
    assert found["b"] == (2.0, None)


def test_the_diagnosis_of_rows_equals_its_closed_form():
    table = jnp.asarray(at(0, 90, 30, 210) * np.array([2, 1, 1, 1])[:, None])  # the rows' lengths are 2, 2, 3, 4
    first = jnp.asarray(at(0, 0))
    seen = rows.diagnose(jnp.asarray(at(20, 80)), first, table, k=2)
    np.testing.assert_allclose(seen.norms, [1, 2], rtol=1e-6)
    np.testing.assert_allclose(seen.median_norm, 2.5, rtol=1e-6)
    np.testing.assert_allclose(seen.to_start, cos(20, 80), atol=1e-6)
    np.testing.assert_allclose(seen.between, cos([0, 60], [60, 0]), atol=1e-6)
    np.testing.assert_array_equal(seen.nearest_ids, [[2, 0], [1, 2]])
    np.testing.assert_allclose(seen.nearest, cos([10, 20], [10, 50]), atol=1e-6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP model with random weights. The model's scores mean nothing, but all code runs."""
    shapes = json.loads((tiny_clip.RECORDED / "clip_shapes.json").read_text())
    return tiny_clip.write_folder(tmp_path_factory.mktemp("clip"), tiny.torch_weights(shapes, seed=3)["clip"])


def run(**given) -> None:
    """Scores like the command `score`.

    The flags of the command are arguments, named like the fields of `Pictures` and `Learned`.
    """
    asked = {name: given.pop(name, None) for name in scoring.Pictures._fields}
    learned = {name: given.pop(name, None) for name in scoring.Learned._fields}
    assert not given
    learned["initialiser"] = learned["initialiser"] or "and"
    scoring.score(scoring.Pictures(**asked), scoring.Learned(**learned))


PROMPTS = ("cat <R> dog", "photo of dog <R-inv> <R> cat")


@pytest.fixture
def drawn(tmp_path):
    """A folder like one that `sample` writes.

    The folder has three pictures of the first prompt, one picture of the second prompt, and the grid.
    """
    folder = tmp_path / "drawn"
    for i, prompt in enumerate([PROMPTS[0]] * 3 + [PROMPTS[1]]):
        image = (128 + 70 * tiny.noise(i, (16, 16, 3))).clip(0, 255).astype(np.uint8)
        pictures.save_png(folder / f"00{i}.png", image, {"prompt": prompt, "seed": str(i)})
    pictures.save_png(folder / "grid.png", np.zeros((4, 4, 3), np.uint8), {"prompts": "\n".join(PROMPTS)})
    return folder


def test_pictures_of_sample_are_scored_by_their_prompts(clip, drawn, tmp_path, capsys):
    images = np.stack([np.asarray(Image.open(drawn / "001.png"))] * 2)
    exemplars.write_folder(tmp_path / "exemplars", images, [["cat {} dog"]] * 2)
    taught = str(tmp_path / "exemplars")
    run(folder=str(drawn), clip=str(clip), words="on top of", others=["of"], exemplars=taught)
    said = capsys.readouterr().out
    assert "mean over prompts" in said
    assert all(name in said for name in ("entity_minimum", "order_margin", "relation_right", "diversity"))
    result = json.loads((drawn / "scores.json").read_text())
    assert [row["prompt"] for row in result["prompts"]] == list(PROMPTS)
    seen = {Path(row["file"]).name: row["scores"] for row in result["pictures"]}
    assert list(seen) == ["000.png", "001.png", "002.png", "003.png"]
    assert seen["001.png"]["exemplar_similarity"] == pytest.approx(1, abs=1e-5)
    assert max(seen[name]["exemplar_similarity"] for name in ("000.png", "002.png", "003.png")) < 0.999
    # The second prompt is inverse and asks for the same scene as the first prompt.
    model = clip_features.load(str(clip))
    features = clip_features.of_pictures(model, [drawn / "000.png", drawn / "003.png"])
    texts = [["cat on top of dog", "photo of cat on top of dog"], ["dog on top of cat", "photo of dog on top of cat"]]
    (sentences, swapped) = (clip_features.of_texts(model, each) for each in texts)
    for i, name in enumerate(("000.png", "003.png")):
        asked, turned = features[i] @ sentences[i], features[i] @ swapped[i]
        assert seen[name]["entity_score"] == pytest.approx(asked, abs=1e-5)
        assert seen[name]["order_margin"] == pytest.approx(asked - turned, abs=1e-5)
    three = clip_features.of_pictures(model, [drawn / f"00{i}.png" for i in range(3)])
    first, second = (row["scores"] for row in result["prompts"])
    assert first["diversity"] == pytest.approx(float(scores.diversity(three)), abs=1e-5)
    assert "diversity" not in second
    means, _ = result["methods"][""]["entity_score"]
    wanted = np.mean([np.mean([seen[f"00{i}.png"]["entity_score"] for i in range(3)]), seen["003.png"]["entity_score"]])
    assert means == pytest.approx(wanted, abs=1e-6)


def test_pictures_with_captions_are_scored_by_their_captions(clip, tmp_path):
    template = {"text": "{subject} {} {object} in the rain", "subject": "cat", "object": "dog"}
    exemplars.write_folder(tmp_path / "own", np.zeros((1, 8, 8, 3), np.uint8), [[template]])
    (shown,) = scoring.read_pictures(tmp_path / "own", "hug", None, None)
    assert shown.prompt == "cat <R> dog in the rain"
    assert shown.texts[:2] == ["cat hugging dog in the rain", "dog hugging cat in the rain"]
    assert len(shown.texts) == 4 + 9
    result = scoring.score_pictures([shown], str(clip), lambda relation: None)
    assert "order_margin" not in result["pictures"][0]["scores"]
    assert "hugging" not in scoring.table(result)
    assert "cat <R> dog in the rain" in scoring.table(result)


def test_pictures_of_an_evaluation_are_scored_by_method(clip, tmp_path, capsys):
    """The evaluation compares two methods on the relations "hug" and "inside".

    Only "inside" has exemplars in the folder, and "hug" is symmetric.
    """
    records = []
    for i, (relation, method) in enumerate([(r, m) for r in ("hug", "inside") for m in ("one", "two")]):
        image = (128 + 70 * tiny.noise(i, (8, 8, 3))).clip(0, 255).astype(np.uint8)
        pictures.save_png(tmp_path / f"{i}.png", image)
        about = {"relation": relation, "method": method, "seed": 0, "prompt": "cat <R> dog"}
        records.append({**about, "file": f"{i}.png"})
    (tmp_path / "pictures.json").write_text(json.dumps(records))
    exemplars.write_folder(tmp_path / "exemplars" / "inside", np.zeros((1, 8, 8, 3), np.uint8), [["cat {} dog"]])
    run(folder=str(tmp_path), clip=str(clip))
    heads = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert heads == ["one", "standard", "two", "standard"]
    result = json.loads((tmp_path / "scores.json").read_text())
    for row in result["pictures"]:
        inside = row["relation"] == "inside"
        assert ("order_margin" in row["scores"]) == ("exemplar_similarity" in row["scores"]) == inside
        assert row["texts"][0] == f"cat {row['relation'].replace('hug', 'hugging')} dog"
    of_one = [row["scores"]["entity_score"] for row in result["pictures"] if row["method"] == "one"]
    mean, error = result["methods"]["one"]["entity_score"]
    assert mean == pytest.approx(np.mean(of_one))
    assert error == pytest.approx(abs(of_one[0] - of_one[1]) / 2)
    with pytest.raises(ValueError, match="2 relations"):
        scoring.read_pictures(tmp_path, None, "hugging", None)


def test_score_measures_the_words_of_a_file(tmp_path, capsys):
    embeddings.write({"<R>": tiny.noise(0, (1, 128))}, "hug", tmp_path)
    run(embedding=str(tmp_path / "hug.safetensors"), model="miniature")
    said = capsys.readouterr().out
    assert said.startswith("<R>\n")
    for line in ("norm", "median norm of words", "cosine to and", "nearest"):
        assert f"\n  {line}" in said


def test_score_measures_the_words_of_a_run_and_writes_the_result(finished, capsys):
    """The command compares the run's words with the model's words and with the word from which training started.

    The command writes the result to the run's folder.
    """
    run(workdir=str(finished[0]))
    assert "cosine to on" in capsys.readouterr().out
    seen = json.loads((finished[0] / "scores.json").read_text())["words"]
    (finished[0] / "scores.json").unlink()
    assert list(seen) == ["<R>", "<R-inv>"]
    assert seen["<R>"]["norm"] == pytest.approx(np.linalg.norm(finished[1][0, 0]), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "nothing to score"),
        ({"folder": "nowhere", "clip": "CLIP", "relation": "hug"}, "no folder of pictures at nowhere"),
        ({"folder": "DRAWN", "relation": "hug"}, "give it by --clip"),
        ({"folder": "DRAWN", "clip": "CLIP"}, "give --words, or --relation"),
        ({"folder": "DRAWN", "clip": "DRAWN", "relation": "hug"}, "config.json"),
        ({"folder": "CLIP", "clip": "CLIP", "relation": "hug"}, "no picture in"),
        ({"embedding": "none.pt"}, "give --model"),
        ({"embedding": "none.pt", "model": "miniature"}, "no embedding at none.pt"),
        ({"embedding": "WORD", "model": "miniature"}, "made for another model: miniature has 128"),
        ({"workdir": "nowhere"}, "no training run in nowhere"),
    ],
)
def test_bad_input_for_score_is_refused_in_one_line(given, says, clip, drawn, tmp_path):
    embeddings.write({"<R>": np.ones((1, 32), np.float32)}, "word", tmp_path)
    stand_ins = {"CLIP": str(clip), "DRAWN": str(drawn), "WORD": str(tmp_path / "word.safetensors")}
    with pytest.raises((ValueError, OSError), match=re.escape(says)) as error:
        run(**{name: stand_ins.get(value, value) for name, value in given.items()})
    assert "\n" not in str(error.value)
