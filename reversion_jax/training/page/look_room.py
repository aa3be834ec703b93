"""The Look tab: inspects a learned word."""

from typing import Any

import gradio as gr

from reversion_jax import config
from reversion_jax.training.page import insight, pieces, take_away
from reversion_jax.training.page.handlers import ON_DEVICE, QUIET, connect
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.trainer import Trainer

_NOTHING = (
    "Choose a learned word, and press “Look” to see its length, the model's words near it, and its path in training."
)
_NO_WORD = "There is no learned word in this folder yet: learn one in the Learn tab."


def build(place: Place, trainer: Trainer) -> None:
    """Builds the Look tab in the page."""
    with gr.Tab("Look", id="look") as tab, gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            gr.HTML("<h2>Word</h2>")
            key = gr.Dropdown(
                place.words(), label="Learned word", info="A run, or an embedding file.", elem_id="looked-at"
            )
            about = "The one that the embedding file was learned on."
            custom: dict[str, Any] = {"allow_custom_value": True, "visible": False}
            model = gr.Dropdown(place.models(), value=config.MINIATURE, label="Model", info=about, **custom)
            prompt = gr.Textbox(
                label="Prompt", info="Draws it with an attention map for each word. May be empty.", elem_id="watched"
            )
            button = gr.Button("Look", variant="primary", elem_id="look")
            message = gr.HTML(elem_id="look-message")
        with gr.Column(scale=7, min_width=320):
            gr.HTML("<h2>What it is like</h2>")
            found = gr.HTML(pieces.empty(_NOTHING if place.words() else _NO_WORD), elem_id="found")
            looks: dict[str, Any] = {"columns": 1, "object_fit": "contain", "height": "auto", "buttons": ["fullscreen"]}
            take = gr.DownloadButton("Download the word for other tools", visible=False, elem_id="take")
            pictures = gr.Gallery(show_label=False, visible=False, elem_id="look-pictures", **looks)

    def looked(key: str | None, model: str, prompt: str) -> list[Any]:
        seen = insight.look_into(place, trainer, key or "", model or "", prompt or "")
        archive = take_away.pack(place, key or "")
        shown = gr.update(value=seen.pictures, visible=bool(seen.pictures))
        return [pieces.words(seen.words), shown, gr.update(value=archive, visible=archive is not None)]

    def opened(key: str | None, shown: str) -> list[Any]:
        known = place.words()
        keep = key if key in dict(known).values() else (known[0][1] if known else None)
        empty = pieces.empty(_NOTHING if known else _NO_WORD)
        return [gr.update(choices=known, value=keep), empty if 'class="empty"' in shown else gr.skip()]

    one = {"concurrency_id": ON_DEVICE, "show_progress_on": [found]}
    connect(button.click, looked, [key, model, prompt], [found, pictures, take], message, **one)
    connect(tab.select, opened, [key, found], [key, found], message, **QUIET)
    ask_model = lambda key: [gr.update(visible=bool(key) and not place.is_run(key))]
    connect(key.change, ask_model, [key], [model], **QUIET)
