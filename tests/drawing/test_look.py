"""Compares every statistic of learned words with its definition in NumPy."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tiny
from etils import epath
from places import SHARED
from safetensors.numpy import load_file, save_file

from reversion_jax.drawing import look, vocabulary, words
from reversion_jax.inversion import words as word_lists
from reversion_jax.runs import folder
from reversion_jax.runtime.errors import Caution
from reversion_jax.weights import embeddings


def table_of(model):
    (name,) = [n for n in load_file(model / "text_encoder" / "model.safetensors") if "token_embedding" in n]
    return load_file(model / "text_encoder" / "model.safetensors")[name]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def look_at_run(workdir, step=None):
    found = words.read(workdir, None, step=step)
    return look.look(found, epath.Path(workdir), found.settings.initialiser)


@pytest.fixture(scope="module")
def seen(finished):
    return look_at_run(finished[0])


def test_statistics_of_words_equal_their_definitions(seen, finished, small):
    table, learned = table_of(small), finished[1][0]
    on = table[json.loads((small / "tokenizer" / "vocab.json").read_text())["on</w>"]]
    norms = np.linalg.norm(table, axis=1)
    assert list(seen.rows) == ["<R>", "<R-inv>"]
    np.testing.assert_allclose(seen.norms, norms, rtol=1e-5)
    for (name, row), own, other in zip(seen.rows.items(), learned, learned[::-1], strict=True):
        assert row.norm == pytest.approx(np.linalg.norm(own), rel=1e-5)
        assert row.longer_than == pytest.approx((norms < np.linalg.norm(own)).mean(), abs=2e-3)
        assert row.to_start == pytest.approx(cosine(own, on), abs=1e-5)
        assert list(row.between.values()) == pytest.approx([cosine(own, other)], abs=1e-5)
        assert name not in row.between
        cosines = np.sort(table @ own / norms / np.linalg.norm(own))[::-1]
        assert list(row.nearest.values()) == pytest.approx(cosines[: len(row.nearest)], abs=1e-5)


def test_the_path_of_a_word_has_its_start_and_every_checkpoint(seen, finished, small):
    workdir, learned = finished
    on = table_of(small)[json.loads((small / "tokenizer" / "vocab.json").read_text())["on</w>"]]
    for i, row in enumerate(seen.rows.values()):
        assert [stop.step for stop in row.path] == [0, 2, 4, 6]
        kept = [folder.read(workdir, step).rows[i] for step in (2, 4, 6)]
        np.testing.assert_allclose([stop.vector for stop in row.path], [on, *kept], rtol=1e-5)
        np.testing.assert_array_equal(row.path[-1].vector, learned[0, i])
        assert [stop.moved for stop in row.path] == pytest.approx(
            [0, *(np.linalg.norm(own - on) for own in kept)], rel=1e-4, abs=1e-6
        )
        assert [stop.to_start for stop in row.path] == pytest.approx([1, *(cosine(own, on) for own in kept)], abs=1e-5)
        assert row.path[0].nearest == "on"
    earlier = look_at_run(workdir, step=4).rows["<R>"]
    assert [stop.step for stop in earlier.path] == [0, 2, 4]
    assert earlier.norm == pytest.approx(seen.rows["<R>"].path[2].norm)


def test_words_are_read_at_the_start_and_at_every_checkpoint(seen, finished):
    """If a token has several rows, `look.at_step` returns all rows of the token."""
    start, steps = look.at_step(seen, 0), folder.kept_steps(finished[0])
    np.testing.assert_array_equal(start["<R>"], seen.rows["<R>"].path[0].vector[None])
    for step in steps:
        at, kept = look.at_step(seen, step), folder.read(finished[0], step).words()
        assert at.keys() == kept.keys()
        for token, vectors in kept.items():
            np.testing.assert_array_equal(at[token], vectors)
    two = seen._replace(rows={"<R>[0]": seen.rows["<R>"], "<R>[1]": seen.rows["<R-inv>"]})
    at = look.at_step(two, steps[-1])
    np.testing.assert_array_equal(at["<R>"], [seen.rows["<R>"].path[-1].vector, seen.rows["<R-inv>"].path[-1].vector])
    with pytest.raises(ValueError, match=r"<R> has no step 999: give one of the steps 0, "):
        look.at_step(seen, 999)


def test_a_damaged_checkpoint_is_left_out_of_the_path(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    path = folder.rows_file(tmp_path / "run", 4)
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.warns(Caution, match="the path leaves it out"):
        row = look_at_run(tmp_path / "run").rows["<R>"]
    assert [stop.step for stop in row.path] == [0, 2, 6]


def test_each_word_has_the_kind_that_the_lists_of_the_run_give(seen):
    """Prepositions and verbs of this run are "on", "top" and "of", so these three words count as prepositions.

    Single letters count as pieces of words.
    """
    kinds = {word: seen.kinds[word] for word in tiny.WORDS}
    wanted = dict.fromkeys(("on", "top", "of"), vocabulary.PREPOSITION) | dict.fromkeys(
        ("cat", "dog"), vocabulary.OTHER
    )
    assert kinds == wanted | {"photo": vocabulary.STOP}
    assert seen.words[:3] == ["on", "top", "of"]
    assert set(seen.words) == set(tiny.WORDS)
    assert {seen.kinds[word] for word in seen.rows["<R>"].nearest if word not in tiny.WORDS} <= {vocabulary.PIECE}
    assert seen.rows["<R>"].stand_in in tiny.WORDS


def test_a_missing_word_list_is_replaced_by_the_list_of_the_package(finished):
    found = words.read(finished[0], None)
    gone = found._replace(settings=dataclasses.replace(found.settings, prepositions="nowhere.txt"))
    with pytest.warns(Caution, match=re.escape("using the package's list prepositions instead")):
        kinds = look.look(gone).kinds
    assert kinds["on"] == vocabulary.PREPOSITION
    assert "on" in word_lists.packaged("prepositions")


def test_a_word_from_a_file_has_neither_start_nor_path(finished, small, tmp_path):
    rows = folder.read(finished[0]).words()
    for name in ("on.safetensors", "learned_embeds.bin"):
        embeddings.write(rows, "on", tmp_path)
        found = words.read(None, str(small), [str(tmp_path / name)])
        row = look.look(found).rows["<R>"]
        assert (row.to_start, row.path, row.between) == (None, [], {})
        assert row.norm == pytest.approx(np.linalg.norm(rows["<R>"]))
    assert look.look(found, initialiser="on").rows["<R>"].to_start == pytest.approx(
        look_at_run(finished[0]).rows["<R>"].to_start
    )


def test_several_rows_of_a_word_are_numbered_and_compared_with_an_initial_file(small, tmp_path):
    learned, first = tiny.noise(1, (2, 32)), tiny.noise(2, (2, 32))
    save_file({"<R>": learned}, tmp_path / "learned.safetensors")
    save_file({"<R>": first}, tmp_path / "first.safetensors")
    found = words.read(None, str(small), [str(tmp_path / "learned.safetensors")])
    seen = look.look(found, initialiser=str(tmp_path / "first.safetensors"))
    assert list(seen.rows) == ["<R>[0]", "<R>[1]"]
    starts = [row.to_start for row in seen.rows.values()]
    assert starts == pytest.approx([cosine(a, b) for a, b in zip(learned, first, strict=True)], abs=1e-5)
    with pytest.warns(Caution, match="the comparison with the start is left out"):
        assert look.look(found, initialiser=str(tmp_path / "gone.pt")).rows["<R>[0]"].to_start is None


def test_an_initial_file_of_another_shape_is_ignored_with_a_warning(small, tmp_path):
    start, _ = embeddings.write({"<R>": tiny.noise(0, (1, 32))}, "on", tmp_path)
    embeddings.write({"<R>": np.ones((2, 32), np.float32)}, "wide", tmp_path)
    found = words.read(None, str(small), [str(tmp_path / "wide.safetensors")])
    with pytest.warns(Caution, match="rows of another shape"):
        assert look.look(found, initialiser=str(start)).rows["<R>[0]"].to_start is None


def test_the_file_of_reversions_authors_is_read_and_measured(tmp_path):
    """The tiny model here has 768 numbers per word.

    The tiny model's vector of "top" is a third of the vector that ReVersion's authors learned.
    """
    path = SHARED / "reference" / "reversion_painted_on_learned_embeds.bin"
    if not path.is_file():
        pytest.skip("no shared/reference beside the repository")
    ((_, vector),) = embeddings.read(path).items()
    text = dataclasses.replace(tiny.SMALL.text, hidden_size=768, intermediate_size=8)
    wide = dataclasses.replace(
        tiny.SMALL, text=text, unet=dataclasses.replace(tiny.SMALL.unet, cross_attention_dim=768)
    )
    weights = tiny.torch_weights(tiny.torch_shapes(wide), seed=4)
    (name,) = [n for n in weights["text_encoder"] if "token_embedding" in n]
    top = sorted(tiny.WORDS).index("top")
    weights["text_encoder"][name][top] = vector[0] / 3
    model = tiny.write_folder(tmp_path / "wide", weights, wide)
    row = look.look(words.read(None, str(model), [str(path)])).rows["<R>"]
    assert row.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    assert max(row.nearest.values()) == pytest.approx(1, abs=1e-5)


def test_the_printed_text_and_the_json_have_the_same_statistics(seen):
    said = look.describe(seen)
    assert said.startswith("<R>\n")
    assert re.search(r"\n  norm +\d\.\d{3}, longer than ", said)
    assert re.search(r"\n  cosine to on +[\d.]+, its start\n", said)
    assert re.search(r"\n +6 +[\d.]+ +[\d.]+ +[\d.]+  \w+ \((preposition|noun or other)\)", said)
    kept = json.loads(json.dumps(look.as_json(seen)))
    assert kept["<R>"]["norm"] == seen.rows["<R>"].norm
    assert [stop["step"] for stop in kept["<R>"]["path"]] == [0, 2, 4, 6]


def test_learned_words_in_a_prompt_are_replaced_by_the_nearest_usual_words(seen):
    one, two = (row.stand_in for row in seen.rows.values())
    assert look.stand_in(seen, "a <R-inv> <R> b <R>") == f"a {two} {one} b {one}"
    named = seen._replace(rows={"hug": seen.rows["<R>"], "hug-inv": seen.rows["<R-inv>"]})
    assert look.stand_in(named, "hugging hug-inv hug") == f"hugging {two} {one}"
    both = seen._replace(rows={"<R>[0]": seen.rows["<R>"], "<R>[1]": seen.rows["<R-inv>"]})
    assert look.stand_in(both, "a <R> b") == f"a {one} {two} b"
