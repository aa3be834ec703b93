"""How the page's functions are called: an error becomes a sentence in the page, and so do the library's warnings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from reversion_jax.training.page import pieces
from reversion_jax.training.page.faults import heard, sentence

ON_DEVICE = "device"  # events that compute wait for one another
QUIET: dict[str, Any] = {"show_progress": "hidden"}  # for events that take no time worth showing


def connect(
    event: Callable[..., Any],
    function: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    message: gr.HTML | None = None,
    **options: Any,
) -> Any:
    """Has an event call a function that returns one value for each output; `message` shows faults and warnings.

    Fields have no bounds of their own: gradio would say what is out of them in another place and in other words.
    Without `message` a fault leaves the outputs as they are: the function runs by itself, such as at every tick.
    """

    @functools.wraps(function)
    def guarded(*given: Any, **more: Any) -> Any:
        try:
            with heard() as notes:
                values = list(function(*given, **more))
            said = pieces.notes(notes)
        except Exception as error:  # whatever it is, the page lives on
            values, said = [gr.skip()] * len(outputs), pieces.fault(sentence(error))
        values += [said] if message else []
        return values if len(values) > 1 else values[0]

    shown = [*outputs, *([message] if message else [])]
    return event(guarded, list(inputs), shown, api_visibility="private", **options)
