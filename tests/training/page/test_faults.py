"""Tests the page's messages about errors and warnings."""

import threading

import jax
import pytest

from reversion_jax.runtime.errors import Caution, warn
from reversion_jax.training.page.faults import heard, sentence


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("no picture\n  at all"), "No picture at all."),
        (ValueError("0.jpg: unreadable"), "0.jpg: unreadable."),
        (FileNotFoundError(""), "FileNotFoundError."),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), "The device has too little memory"),
    ],
)
def test_an_error_becomes_one_sentence(error, says):
    assert sentence(error).startswith(says)


def test_an_unexpected_error_is_printed_in_the_terminal_only(capsys):
    assert "terminal" in sentence(KeyError("secret"))
    assert "secret" not in sentence(KeyError("secret"))
    assert "KeyError: 'secret'" in capsys.readouterr().err


def _warn_in_two_threads() -> list[str]:
    """Warns in another thread and in this thread. Returns the warnings that `heard` collects in this thread."""
    with heard() as mine:
        other = threading.Thread(target=warn, args=("theirs",))
        other.start()
        other.join()
        warn("mine")
        warn("mine")
    return mine


def test_the_warnings_of_each_thread_are_collected_separately():
    with pytest.warns(Caution) as told:
        mine = _warn_in_two_threads()
    assert mine == ["mine"]
    assert [str(warning.message) for warning in told] == ["theirs", "mine", "mine"]  # the terminal shows all warnings
