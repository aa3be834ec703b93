"""Tests the checks of captions that users type."""

import json

import pytest

from reversion_jax.training.page import captions


def test_a_caption_becomes_a_direct_and_an_inverse_prompt():
    found = captions.check("a photo of cat {} stone, at night", invertible=True)
    assert found.fault == ""
    assert found.direct == "a photo of cat <R> stone, at night"
    assert found.inverse == "a photo of stone <R-inv> <R> cat, at night"


def test_a_caption_must_be_invertible_only_for_methods_with_inverse_prompts():
    unclear = "cat {} stone standing on grass"
    assert captions.check(unclear, invertible=False).direct == "cat <R> stone standing on grass"
    assert "may end at" in captions.check(unclear, invertible=True).fault


def test_a_json_object_with_subject_and_object_is_accepted_as_a_caption():
    explicit = {"text": "{subject} {} {object} on grass", "subject": "cat", "object": "stone"}
    assert captions.check(json.dumps(explicit), invertible=True).inverse == "stone <R-inv> <R> cat on grass"


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("cat on stone", "write {} in place of the relation"),
        ("cat {} dog {} stone", "2 {}"),
        ("cat {}", "object '' of 'cat {}' is empty"),
        ("cat <R> {} stone", "placeholder"),
        ("cat {} stone \ud800", "character"),
        ('{"text": "cat"', "Expecting"),
        ("cat {} " + "stone" * 200, "at most 500 letters"),
    ],
)
def test_a_fault_in_a_caption_is_one_sentence(caption, says):
    fault = captions.check(caption, invertible=True).fault
    assert says in fault
    assert "\n" not in fault
    assert '{"text"' not in fault  # the page does not show captions as JSON, which would confuse users


def test_each_line_is_a_caption_of_its_own():
    assert captions.templates("cat {} stone\n\n a cat {} a stone ", "0.jpg", True) == [
        "cat {} stone",
        "a cat {} a stone",
    ]


@pytest.mark.parametrize("text", ["", "  \n ", "cat {} stone\ncat on stone"])
def test_an_error_about_a_caption_names_the_picture(text):
    with pytest.raises(ValueError, match=r"0\.jpg"):
        captions.templates(text, "0.jpg", invertible=True)


def test_a_file_text_json_fills_in_the_captions_of_the_pictures(tmp_path):
    explicit = {"text": "{subject} {} {object} on grass", "subject": "cat", "object": "stone"}
    path = tmp_path / "text.json"
    path.write_text(json.dumps({"0.jpg": ["cat {} dog", explicit], "1.jpg": ["x {} y"]}))
    (found,) = captions.read_file(path, ["0.jpg", "2.jpg"]).values()
    assert captions.templates(found, "0.jpg", invertible=True) == ["cat {} dog", explicit]
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"text\.json cannot be read"):
        captions.read_file(path, ["0.jpg"])


def test_prompts_and_templates_are_converted_into_each_other():
    assert captions.with_relation("cat {} stone") == "cat <R> stone"
    assert captions.as_template("cat <R> stone") == captions.as_template("cat <R-inv> <R> stone") == "cat {} stone"
