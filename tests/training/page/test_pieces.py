"""Tests the text in the parts of the page, and that no text of a user or a file becomes HTML."""

import dataclasses

import numpy as np
import pytest

from reversion_jax.config import Settings
from reversion_jax.training.page import captions, pieces, trainer
from reversion_jax.training.page.place import Listed
from reversion_jax.training.page.trainer import State

EVIL = "<script>alert('x')</script>"


@pytest.mark.parametrize(
    "piece",
    [
        pieces.prompt(EVIL),
        pieces.checked([captions.check(EVIL, True), captions.check(f"cat {{}} {EVIL}", False)]),
        pieces.bars({EVIL: 0.5}),
        pieces.fault(EVIL),
        pieces.notes([EVIL]),
        pieces.hint(EVIL),
        pieces.empty(EVIL),
        pieces.prompts({EVIL: EVIL, "direct": EVIL}),
        pieces.nearest({EVIL: 0.5}),
        pieces.elsewhere(State(EVIL)),
        pieces.status(State(EVIL, trainer.FAILED, message=EVIL, notes=(EVIL,))),
        pieces.words({EVIL: {"norm": 1, "median_norm_of_words": 1, f"cosine_to_{EVIL}": 1, "nearest": {EVIL: 1},
                             "cosine_to": {EVIL: 1}}}),
    ],
)  # fmt: skip
def test_text_of_users_and_files_is_escaped(piece):
    assert "&lt;script&gt;" in piece
    assert "<script" not in piece


def test_learned_words_are_shown_in_bold():
    assert pieces.prompt("stone <R-inv> <R> cat") == "stone <b>&lt;R-inv&gt;</b> <b>&lt;R&gt;</b> cat"


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (trainer.PREPARING, "getting ready"),
        (trainer.TRAINING, "step 1,200 of 3,000, about 15 min left"),
        (trainer.STOPPING, "stopping after the current steps"),
        (trainer.FINISHED, "finished, 3,000 steps"),
        (trainer.STOPPED, "stopped at step 1,200 of 3,000; it can be resumed"),
        (trainer.FAILED, "stopped by an error"),
    ],
)
def test_the_status_says_how_far_a_run_is(stage, says, monkeypatch):
    monkeypatch.setattr(trainer.time, "monotonic", lambda: 700.0)
    assert says in pieces.status(State("hug", stage, step=1200, steps=3000, first=0, since=100.0))


def test_the_list_always_has_the_run_that_is_shown():
    """If the list lacked the run that is shown, the page could not keep this run selected."""
    hug = Listed("hug", dataclasses.replace(Settings(), steps=3), 3, ("hug",))
    names = lambda shown, state: [name for _, name in pieces.run_list([hug], shown, state)]
    assert names("hug", State()) == names("", State()) == ["hug"]
    assert names("failed", State("failed", trainer.FAILED)) == ["failed", "hug"]
    assert names("hug", State("new", trainer.PREPARING)) == ["new", "hug"]
    assert names("other", State("new", trainer.PREPARING)) == ["other", "new", "hug"]
    assert pieces.run_list([hug], "new", State("new", trainer.PREPARING))[0] == ("new · getting ready", "new")


def test_pictures_are_embedded_in_the_page():
    tiles = pieces.tiles(np.zeros((2, 4, 4, 3), np.uint8))
    assert tiles.count("src='data:image/png;base64,") == 2
