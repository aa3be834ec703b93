"""Connects the page's events to functions. Errors and warnings of a function appear as sentences in the page."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from reversion_jax.training.page import pieces
from reversion_jax.training.page.faults import heard, sentence

ON_DEVICE = "device"  # events with this concurrency id use the device, one at a time
QUIET: dict[str, Any] = {"show_progress": "hidden"}  # for events that are too short to show their progress


def connect(
    event: Callable[..., Any],
    function: Callable[..., Any],
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    message: gr.HTML | None = None,
    **options: Any,
) -> Any:
    """Makes an event call a function, which returns one value for each output.

    message: the element that shows errors and warnings of the function. If `message` is None, errors and warnings
    are not shown; use None for functions that run without the user's request, such as at each tick of a timer. After
    an error, the outputs do not change.

    The page's number fields have no limits, because gradio would report a wrong value in another place and in other
    words.
    """

    @functools.wraps(function)
    def guarded(*given: Any, **more: Any) -> Any:
        try:
            with heard() as notes:
                values = list(function(*given, **more))
            said = pieces.notes(notes)
        except Exception as error:  # no error may break the page
            values, said = [gr.skip()] * len(outputs), pieces.fault(sentence(error))
        values += [said] if message else []
        return values if len(values) > 1 else values[0]

    shown = [*outputs, *([message] if message else [])]
    return event(guarded, list(inputs), shown, api_visibility="private", **options)
