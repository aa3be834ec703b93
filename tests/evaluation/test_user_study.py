import base64
import io
import json
import re
from pathlib import Path

import pytest
import tiny_evaluation
from PIL import Image
from tiny_evaluation import METHODS

from reversion_jax.evaluation.user_study import page, sets, votes


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    return tiny_evaluation.write(tmp_path_factory.mktemp("evaluation"))


def _make(evaluation: Path, seed: int = 0, methods=METHODS, per_relation: int = 4) -> tuple[str, dict]:
    chosen = sets.choose(sets.read_pictures(evaluation), methods, per_relation, seed)
    shown = {relation: sets.read_exemplars(evaluation, relation) for relation in ("hug", "inside")}
    return page.make(chosen, methods, shown)


def _data(text: str) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(data)


def _picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_the_key_names_the_method_of_each_picture(evaluation):
    records = json.loads((evaluation / "pictures.json").read_text())
    text, key = _make(evaluation)
    data = _data(text)
    assert data["study"] == key["study"]
    assert len(data["sets"]) == len(key["sets"]) == 8
    for shown, told in zip(data["sets"], key["sets"], strict=True):
        assert sorted(told["methods"]) == sorted(METHODS)
        assert shown["text"] == told["prompt"].split("<R>")
        for uri, method in zip(shown["pictures"], told["methods"], strict=True):
            record = records[_picture(uri).getpixel((0, 0))[0]]
            told_of = {"relation": told["relation"], "prompt": told["prompt"], "seed": told["seed"], "method": method}
            assert record == {**told_of, "file": record["file"]}
        examples = data["exemplars"][shown["exemplars"]]
        assert [one["text"] for one in examples] == [["man ", " child"], ["a dog ", " bag"]]
        assert _picture(examples[0]["src"]).getpixel((0, 0)) == (int(told["relation"] == "inside"),) * 3
    for relation in ("hug", "inside"):
        assert len({one["prompt"] for one in key["sets"] if one["relation"] == relation}) == 4


def test_the_page_does_not_reveal_the_methods(evaluation):
    text, _ = _make(evaluation)
    data = _data(text)
    for word in (*METHODS, ".png", "hug", "inside", str(evaluation)):
        assert word not in text
    uris = [uri for one in data["sets"] for uri in one["pictures"]]
    for picture in map(_picture, uris):
        assert not set(picture.info) & {"exif", "xmp", "icc_profile", "words", "comment"}
    assert len(uris) == len(set(uris)) == 32
    assert text.count("</script>") == 2  # the prompt with </script> is escaped
    assert not re.search(r"""(src|href)=["']?(?!data:)\w|url\(|@import|https?://""", text)
    assert votes.FORMAT in text


def test_the_order_of_sets_and_methods_is_random_and_reproducible(tmp_path):
    folder = tiny_evaluation.write(
        tmp_path / "a", prompts=[f"cat <R> {n}" for n in range(20)], seeds=(0,), methods=["x", "y"]
    )
    text, key = _make(folder, methods=["x", "y"], per_relation=20)
    for relation in ("hug", "inside"):
        first = [one["methods"][0] for one in key["sets"] if one["relation"] == relation]
        assert {"x", "y"} == set(first)
    assert len({tuple(one["relation"] for one in key["sets"][n : n + 2]) for n in range(39)}) == 4
    records = json.loads((folder / "pictures.json").read_text())
    (folder / "pictures.json").write_text(json.dumps(records[::-1]))
    assert _make(folder, methods=["x", "y"], per_relation=20) == (text, key)
    assert _make(folder, seed=1, methods=["x", "y"], per_relation=20)[1]["sets"] != key["sets"]


def test_each_set_has_pictures_of_all_methods_with_one_seed(tmp_path):
    """The folder may also have pictures of methods that are not compared."""
    folder = tiny_evaluation.write(tmp_path / "a", relations=("hug",), prompts=["a <R> b", "c <R> d"], seeds=(3, 4))
    first, *others = pictures = sets.read_pictures(folder)
    assert (first.method, first.seed) == (METHODS[0], 3)
    chosen = {one.prompt: one for one in sets.choose(others, METHODS, 2, 0)}
    assert {picture.seed for picture in chosen["a <R> b"].pictures} == {4}
    assert len({picture.seed for picture in chosen["c <R> d"].pictures}) == 1
    assert len(sets.choose(others, METHODS[1:], 2, 0)[0].pictures) == 3
    none_complete = [picture for picture in others if (picture.prompt, picture.method) != ("a <R> b", METHODS[2])]
    assert [one.prompt for one in sets.choose(none_complete, METHODS, 1, 0)] == ["c <R> d"]
    with pytest.raises(ValueError, match=r"hug: 1 prompts drawn by all of .* fewer than --sets_per_relation=2"):
        sets.choose(none_complete, METHODS, 2, 0)
    with pytest.raises(ValueError, match="no pictures by 'magic'"):
        sets.choose(pictures, ["magic", "reversion"], 1, 0)
    with pytest.raises(ValueError, match="needs 2 to 26 different methods"):
        sets.choose(pictures, ["reversion"], 1, 0)


def test_large_pictures_are_scaled_down_to_512_pixels(tmp_path):
    folder = tiny_evaluation.write(tmp_path / "a", prompts=["a <R> b"], seeds=(0,), methods=METHODS[:2])
    for file in folder.glob("*.png"):
        Image.effect_noise((900, 600), 60).save(file)
    data = _data(_make(folder, methods=METHODS[:2], per_relation=1)[0])
    assert _picture(data["sets"][0]["pictures"][0]).size == (512, 341)


def test_exemplars_may_have_no_captions(tmp_path):
    folder = tiny_evaluation.write(tmp_path / "a", relations=("hug",))
    (folder / "exemplars" / "hug" / "text.json").unlink()
    assert [text for _, text in sets.read_exemplars(folder, "hug")] == ["", ""]
    with pytest.raises(FileNotFoundError, match="no exemplars of inside"):
        sets.read_exemplars(folder, "inside")


def test_the_key_of_another_study_is_not_overwritten(evaluation, tmp_path):
    first = _make(evaluation)
    page.write(tmp_path / "study", *first)
    page.write(tmp_path / "study", *first)
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["key.json", "study.html"]
    with pytest.raises(FileExistsError, match="the key of another study"):
        page.write(tmp_path / "study", *_make(evaluation, seed=1))
    assert votes.read_key(tmp_path / "study") == first[1]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ("{", "not readable as JSON"),
        ([{"relation": "hug"}], "[0]: must be an object with relation, method, seed, prompt, file"),
        (["hug"], "[0]: must be an object"),
        ([{"relation": "hug", "method": "m", "seed": "0", "prompt": "p", "file": "0.png"}], "[0]: must be an object"),
        ([{"relation": "hug", "method": "m", "seed": 0, "prompt": "p", "file": "9.png"}], "9.png: no such picture"),
        ([{"relation": "hug", "method": "m", "seed": 0, "prompt": "p", "file": "0.png"}] * 2, "[1]: a second picture"),
    ],
)
def test_an_error_about_an_evaluation_names_the_record(tmp_path, records, says):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "pictures.json").write_text(records if isinstance(records, str) else json.dumps(records))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(says)):
        sets.read_pictures(tmp_path)
