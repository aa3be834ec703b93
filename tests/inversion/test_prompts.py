import re

import pytest

from reversion_jax.inversion import prompts

direct = lambda template: prompts.parse(template).direct()
inverse = lambda template: prompts.parse(template).inverse()
EXPLICIT = {"text": "a photo of {subject} {} {object}, at night", "subject": "cat", "object": "stone"}

INVERTED = [
    ("cat {} stone", "stone <R-inv> <R> cat"),
    ("a photo of cat {} stone", "a photo of stone <R-inv> <R> cat"),
    ("a photo of cat {} stone, on the beach", "a photo of stone <R-inv> <R> cat, on the beach"),
    ("cat {} stone, on the beach, at night.", "stone <R-inv> <R> cat, on the beach, at night."),
    # The article after the prefix "a photo of" belongs to the entity and moves with the entity.
    ("a photo of a cat {} a stone", "a photo of a stone <R-inv> <R> a cat"),
    ("The photo of the cat {} an old stone", "The photo of an old stone <R-inv> <R> the cat"),
    ("A cat {} the stone", "the stone <R-inv> <R> A cat"),
    ("Michael Jackson {} T-shirt", "T-shirt <R-inv> <R> Michael Jackson"),
    ("a photo of vegetables {} paper bag", "a photo of paper bag <R-inv> <R> vegetables"),
    ("photo of cat {} stone", "photo of stone <R-inv> <R> cat"),
    ("a close-up photo of cat {} stone", "a close-up photo of stone <R-inv> <R> cat"),
    ("an oil painting of cat {} stone", "an oil painting of stone <R-inv> <R> cat"),
    ("a picture of cat {} stone", "a picture of stone <R-inv> <R> cat"),
    ("a rendering of cat {} stone", "a rendering of stone <R-inv> <R> cat"),
    ("the cropped photo of cat {} stone", "the cropped photo of stone <R-inv> <R> cat"),
    ("a black and white photo of cat {} stone", "a black and white photo of stone <R-inv> <R> cat"),
    ("an illustration of cat {} stone", "an illustration of stone <R-inv> <R> cat"),
    # A medium such as "painting" without "of" is an entity. A participle before a noun is an adjective. Not every word
    # that ends in -ing is a verb.
    ("painting {} picture frame", "picture frame <R-inv> <R> painting"),
    ("ocean {} swimming pool", "swimming pool <R-inv> <R> ocean"),
    ("cat {} a painted wall", "a painted wall <R-inv> <R> cat"),
    ("cat {} apartment building", "apartment building <R-inv> <R> cat"),
    ("lamp {} white ceiling", "white ceiling <R-inv> <R> lamp"),
    ("cat {} gold ring", "gold ring <R-inv> <R> cat"),
    ("cat {} merry-go-round", "merry-go-round <R-inv> <R> cat"),
    ("cat {} stone.", "stone <R-inv> <R> cat."),
    ("  a photo of\tcat  {} stone ,  at night", "a photo of stone <R-inv> <R> cat, at night"),
    (EXPLICIT, "a photo of stone <R-inv> <R> cat, at night"),
]

# Templates that cannot be inverted with certainty, and a part of the error message that names the reason.
UNCERTAIN = [
    ("cat {} stone on the beach", '"on"'),
    ("cat {} stone at night", '"at"'),
    ("cat {} stone and dog", '"and"'),
    ("cat {} stone wearing hat", '"wearing"'),
    ("cat {} stone glowing", '"glowing"'),
    ("cat {} stone painted red", '"painted"'),
    ("cat {} standing", '"standing"'),
    ("cat {} stone which is red", '"which"'),
    ("cat {} stone outdoors", '"outdoors"'),
    ("cat {} stone Under water", '"under"'),
    ("cat in hat {} stone", '"in"'),
    ("man sitting {} chair", '"sitting"'),
    ("a marble bust of cat {} dog", '"of"'),
    ("a photo of a statue of cat {} dog", '"of"'),
    ("photography of cat {} dog", '"of"'),
    ("a photo showing cat {} dog", '"showing"'),
    ("cat {} bowl of rice", '"of"'),
    ("cat {} stone. Night", '"."'),
    ("cat {} stone | 4k", '"|"'),
    ("cat {} stone (red)", '"("'),
    ("at night, cat {} stone", "comma before {}"),
    ("cat {}", "is empty"),
    ("{} stone", "is empty"),
    ("a photo of {} stone", "is empty"),
    ("cat {} the", "is empty"),
    ("cat {}, at night", "is empty"),
]

MALFORMED = [
    ("cat stone", "0 {}"),
    ("cat {} stone {} dog", "2 {}"),
    ("cat {relation} stone {}", "braces besides {}"),
    ("{subject} {} {object}", "braces besides {}"),
    ("cat{} stone", "touches another word"),
    ("cat {}stone", "touches another word"),
    ("cat {} stone <R>", "placeholder"),
    ("cat {} <r-inv> stone", "placeholder"),
    (["cat {} stone"], "is a list"),
    (EXPLICIT | {"subject": " "}, "no 'subject'"),
    ({"text": EXPLICIT["text"], "subject": "cat"}, "no 'object'"),
    (EXPLICIT | {"object": 3}, "no 'object'"),
    (EXPLICIT | {"prefix": "a photo of"}, "unknown key 'prefix'"),
    (EXPLICIT | {"text": "{subject} {}"}, "must contain"),
    (EXPLICIT | {"text": "{subject} {object}"}, "must contain"),
    (EXPLICIT | {"text": "{subject} {} {object} {}"}, "must contain"),
    (EXPLICIT | {"text": "{subject} {} {object.__class__}"}, "must contain"),
    (EXPLICIT | {"text": "{subject!r} {} {object}"}, "must contain"),
    (EXPLICIT | {"text": "{subject} {} {object:>9}"}, "must contain"),
    (EXPLICIT | {"text": "{subject} {} {object} }"}, "explicit form"),
    (EXPLICIT | {"text": "{subject}{} {object}"}, "touches another word"),
    (EXPLICIT | {"text": "{subject} {} {object} <R>"}, "placeholder"),
    (EXPLICIT | {"subject": "{object}"}, "braces"),
    (EXPLICIT | {"object": "<R>"}, "placeholder"),
]


@pytest.mark.parametrize(("template", "expected"), INVERTED)
def test_the_inverse_prompt_swaps_only_the_entities(template, expected):
    assert inverse(template) == expected


@pytest.mark.parametrize(("template", "named"), UNCERTAIN)
def test_a_template_with_uncertain_inversion_is_refused_and_the_error_shows_a_remedy(template, named):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        inverse(template)
    message = str(caught.value)
    assert named in message
    assert template in message
    assert '"subject"' in message  # the message shows the explicit form, which always works
    assert "\n" not in message
    # The direct prompt of the template is certain and is not refused.
    assert direct(template) == template.replace("{}", "<R>")
    assert prompts.parse(template).fault == message
    with pytest.raises(ValueError, match=re.escape(message)):
        prompts.parse(template).swapped()


@pytest.mark.parametrize(("template", "named"), MALFORMED)
@pytest.mark.parametrize("make", [direct, inverse])
def test_malformed_templates_are_refused_with_an_error_of_one_line(template, named, make):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make(template)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_explicit_form_of_a_template_is_always_inverted():
    template = {
        "text": "at night {subject} {} {object} on a hill",
        "subject": "bust of cat",
        "object": "a dog",
    }
    assert direct(template) == "at night bust of cat <R> a dog on a hill"
    assert inverse(template) == "at night a dog <R-inv> <R> bust of cat on a hill"


@pytest.mark.parametrize("template", ["a photo of cat {} stone, at night", EXPLICIT])
def test_a_template_gives_direct_and_natural_prompts(template):
    assert direct(template) == "a photo of cat <R> stone, at night"
    assert prompts.parse(template).natural("carved into") == "a photo of cat carved into stone, at night"
    with pytest.raises(ValueError, match="no words"):
        prompts.parse(template).natural(" ")


def test_a_parsed_template_equals_its_explicit_form():
    parsed = prompts.parse("a photo of cat {} stone, at night")
    assert (parsed.text, parsed.subject, parsed.object) == tuple(EXPLICIT.values())
    assert parsed == prompts.parse(EXPLICIT)
    assert not parsed.fault


@pytest.mark.parametrize("template", ["a photo of cat {} stone, at night", EXPLICIT])
def test_swapping_a_template_twice_gives_the_template(template):
    parsed = prompts.parse(template)
    assert parsed.fill("{}") == "a photo of cat {} stone, at night"
    assert parsed.swapped().fill("under") == "a photo of stone under cat, at night"
    assert parsed.swapped().swapped() == parsed


@pytest.mark.parametrize(("template", "_"), INVERTED)
def test_inverting_twice_gives_the_direct_prompt(template, _):
    again = inverse(inverse(template).replace("<R-inv> <R>", "{}"))
    assert again.replace("<R-inv> ", "") == direct(template).replace(" ,", ",")
