"""Tests the page of the user study in a browser. `pytest -m browser` runs these tests with playwright and Chromium."""

from pathlib import Path

import numpy as np
import pytest
import tiny_evaluation
from tiny_evaluation import METHODS

from reversion_jax.evaluation.user_study import page, sets, votes

pytestmark = pytest.mark.browser


@pytest.fixture
def study(tmp_path) -> tuple[Path, dict]:
    """The file of a page with four sets of pictures, and the key of the study."""
    evaluation = tiny_evaluation.write(tmp_path / "evaluation", seeds=(0,))
    chosen = sets.choose(sets.read_pictures(evaluation), METHODS, 2, 0)
    made = page.make(chosen, METHODS, {name: sets.read_exemplars(evaluation, name) for name in ("hug", "inside")})
    page.write(tmp_path / "study", *made)
    return tmp_path / "study" / page.PAGE, made[1]


def _open(browser, file: Path, **context):
    """Opens the file in a tab. Returns the tab and a list that collects errors and requests over the internet."""
    tab = browser.new_context(**context).new_page()
    wrong = []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    tab.goto(file.as_uri())
    return tab, wrong


def _order(told: dict, ranks: list[int]) -> list[str]:
    """Returns the letters of a set's pictures from worst to best, if `ranks` has the rank of each method."""
    by_rank = sorted(range(len(ranks)), key=lambda n: ranks[n])
    return ["ABCD"[told["methods"].index(METHODS[n])] for n in by_rank]


def _shown(tab, criterion: str) -> list[str | None]:
    places = tab.locator(f"#{criterion} .place")
    return [place.locator(".pick").get_attribute("data-letter") if place.locator(".pick").count() else None
            for place in places.all()]  # fmt: skip


def _middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def _drag(tab, source, target) -> None:
    target.scroll_into_view_if_needed()
    tab.mouse.move(*_middle(source))
    tab.mouse.down()
    tab.mouse.move(*_middle(target), steps=5)
    tab.mouse.up()


def _tap_best_to_worst(tab, criterion: str, order: list[str]) -> None:
    for letter in order[:0:-1]:  # the page places the last picture itself
        tab.locator(f"#{criterion} .tray [data-letter={letter}]").click()


def _save(tab, folder: Path) -> None:
    with tab.expect_download() as download:
        tab.locator("#save").click()
    folder.mkdir(exist_ok=True)
    download.value.save_as(folder / download.value.suggested_filename)


def test_votes_by_mouse_keyboard_and_touch_make_the_table(browser, study, tmp_path):
    file, key = study
    tab, wrong = _open(browser, file, viewport={"width": 1280, "height": 900})
    tab.get_by_text("Start", exact=True).click()
    pictures, place = tab.locator(".pictures [data-letter]"), lambda c, n: tab.locator(f"#{c} .place").nth(n)

    # The mouse drags pictures from the large ones, from the tray, onto an occupied place, and out of a place.
    worst_to_best = _order(key["sets"][0], [1, 2, 3, 4])
    a, b, c, d = ("ABCD".index(letter) for letter in worst_to_best)
    _drag(tab, pictures.nth(d), place("entity", 0))
    _drag(tab, pictures.nth(a), place("entity", 0))
    assert _shown(tab, "entity") == [worst_to_best[0], None, None, None]
    _drag(tab, tab.locator(f"#entity .tray [data-letter={worst_to_best[3]}]"), place("entity", 3))
    _drag(tab, pictures.nth(b), place("entity", 2))
    assert _shown(tab, "entity") == [worst_to_best[n] for n in (0, 2, 1, 3)]
    _drag(tab, place("entity", 2), place("entity", 1))
    assert _shown(tab, "entity") == worst_to_best
    assert _shown(tab, "relation") == [None] * 4
    _drag(tab, place("entity", 1), tab.locator("h1"))
    assert _shown(tab, "entity") == [worst_to_best[0], None, *worst_to_best[2:]]
    _drag(tab, pictures.nth(b), place("entity", 1))
    assert _shown(tab, "entity") == worst_to_best
    pictures.nth(c).click()
    assert tab.locator("dialog[open]").count() == 1
    tab.keyboard.press("Escape")
    _tap_best_to_worst(tab, "relation", _order(key["sets"][0], [4, 3, 2, 1]))

    # With the keyboard.
    tab.locator("#next").press("Enter")
    wanted = _order(key["sets"][1], [1, 2, 3, 4])
    for letter in "ABC":
        tab.locator(f"#entity .tray [data-letter={letter}]").press("Enter")
    assert _shown(tab, "entity") == ["D", "C", "B", "A"]
    for rank, letter in enumerate(wanted):
        while (at := _shown(tab, "entity").index(letter)) != rank:
            tab.keyboard.press("Tab")  # the focus follows the moved picture, so the test sets the focus again
            tab.locator(f"#entity [data-letter={letter}]").focus()
            tab.keyboard.press("ArrowLeft" if at > rank else "ArrowRight")
            assert tab.evaluate("document.activeElement.dataset.letter") == letter
    _tap_best_to_worst(tab, "relation", _order(key["sets"][1], [4, 3, 2, 1]))
    tab.locator("#next").click()
    tab.reload()
    assert tab.locator(".count").inner_text() == "Set 3 of 4"
    assert _shown(tab, "entity") == [None] * 4
    tab.locator("#next").click()
    tab.get_by_text("Finish").click()
    assert tab.locator("#save").is_disabled()
    for n in (2, 3):
        tab.get_by_text(f"Set {n + 1}", exact=True).click()
        _tap_best_to_worst(tab, "entity", _order(key["sets"][n], [1, 2, 3, 4]))
        _tap_best_to_worst(tab, "relation", _order(key["sets"][n], [4, 3, 2, 1]))
        while tab.locator("#next").count():
            tab.locator("#next").click()
    _save(tab, tmp_path / "votes")
    assert wrong == []

    # A finger on a phone taps a picture, or holds it for a short time and then drags it.
    tab, wrong = _open(browser, file, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab.get_by_text("Start", exact=True).tap()
    touch = tab.context.new_cdp_session(tab)
    for n, told in enumerate(key["sets"]):
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        for criterion, ranks in (("entity", [1, 2, 3, 4]), ("relation", [2, 1, 4, 3])):
            order = _order(told, ranks)
            if n == 0:
                tab.locator(f"#{criterion}").scroll_into_view_if_needed()
                ends = [
                    _middle(tab.locator(f"#{criterion} .tray [data-letter={order[0]}]")),
                    _middle(tab.locator(f"#{criterion} .place").nth(0)),
                ]
                point = lambda end: [{"x": end[0], "y": end[1]}]
                touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": point(ends[0])})
                tab.wait_for_selector(".ghost")
                touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": point(ends[1])})
                touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
                assert _shown(tab, criterion) == [order[0], None, None, None]
            for letter in order[:0:-1]:
                if tab.locator(f"#{criterion} .tray [data-letter={letter}]").count():
                    tab.locator(f"#{criterion} .tray [data-letter={letter}]").tap()
            assert _shown(tab, criterion) == order
        tab.locator("#next").tap()
    _save(tab, tmp_path / "votes")
    assert wrong == []

    ranking = votes.average_user_ranking(votes.read_votes(tmp_path / "votes", key), key)
    assert ranking.voters == 2
    np.testing.assert_allclose(ranking.mean, np.tile([[[1, 2, 3, 4], [3, 2, 3, 2]]], (3, 1, 1)))


def test_a_second_voter_on_the_same_device_starts_with_an_empty_page(browser, study):
    tab, wrong = _open(browser, study[0])
    tab.get_by_text("Start", exact=True).click()
    first = tab.evaluate("state.voter")
    _tap_best_to_worst(tab, "entity", ["A", "B", "C", "D"])
    tab.evaluate("go(study.sets.length)")
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.get_by_text("Someone else").click()
    assert _shown(tab, "entity") == [None] * 4
    assert tab.evaluate("state.voter") != first
    assert wrong == []
