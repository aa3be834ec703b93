"""The Draw tab: draws pictures with a learned word."""

from pathlib import Path
from typing import Any

import gradio as gr

from reversion_jax import config
from reversion_jax.training.page import draw, pieces
from reversion_jax.training.page.handlers import ON_DEVICE, QUIET, connect
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.trainer import Trainer
from reversion_jax.weights import embeddings

_NOTHING = "No picture yet. Write a prompt, and press “Draw”."
_EXAMPLE = "red circle {} blue star"  # the miniature model knows these shapes
_GRAMMAR = "One prompt per line. {} or <R> is the learned word; <R-inv> <R> is its inverse."


def choices(place: Place) -> list[tuple[str, str]]:
    """Returns the menu's entries (label, key): all learned words, then the model without a learned word."""
    return [*place.words(), ("no learned word: the model alone", "")]


def build(place: Place, trainer: Trainer) -> None:
    """Builds the Draw tab in the page."""
    with gr.Tab("Draw", id="draw") as tab, gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            form, file = _form(place)
            button = gr.Button("Draw", variant="primary", elem_id="draw")
            message = gr.HTML(elem_id="draw-message")
        with gr.Column(scale=6, min_width=320):
            gr.HTML("<h2>Pictures</h2>")
            hint = gr.HTML(pieces.empty(_NOTHING), elem_id="draw-empty")
            looks: dict[str, Any] = {"object_fit": "contain", "height": "auto", "buttons": ["download", "fullscreen"]}
            gallery = gr.Gallery(show_label=False, visible=False, elem_id="drawings", **looks)
            download = gr.DownloadButton("Download all as a zip", visible=False, elem_id="download")

    def drawn(*values: Any, progress: gr.Progress = gr.Progress(track_tqdm=True)) -> list[Any]:  # noqa: B008
        made = draw.draw(place, trainer, dict(zip(form, values, strict=True)))
        pictures = gr.update(value=made.pictures, columns=made.columns, visible=True)
        return [pictures, gr.update(value=made.archive, visible=True), pieces.prompts(made.prompts)]

    one = {"concurrency_id": ON_DEVICE, "concurrency_limit": 1, "show_progress_on": [hint]}
    connect(button.click, drawn, list(form.values()), [gallery, download, hint], message, **one)
    _connect_source(place, form, file, tab, message)


def _form(place: Place) -> tuple[dict[str, gr.components.Component], gr.File]:
    """Builds the form; returns its fields, by the names that `draw.draw` uses, and the field for an embedding file."""
    gr.HTML("<h2>Word</h2>")
    key = gr.Dropdown(choices(place), label="Learned word", info="A run, or an embedding file.", elem_id="word")
    about = "The one that the embedding file was learned on."
    custom: dict[str, Any] = {"allow_custom_value": True, "visible": False}
    model = gr.Dropdown(place.models(), value=config.MINIATURE, label="Model", info=about, **custom)
    with gr.Accordion("Use an embedding file", open=False):
        kinds = list(embeddings.SUFFIXES)
        file = gr.File(label=", ".join(kinds), file_types=kinds, height=110, elem_id="embedding")
    gr.HTML("<h2>Prompt</h2>")
    prompts = gr.Textbox(_EXAMPLE, lines=2, max_lines=8, label="Prompts", info=_GRAMMAR, elem_id="prompt")
    with gr.Group():
        compare = gr.Checkbox(label="Compare: direct, inverse and plain words side by side", elem_id="compare")
        about = "Words that the model knows for the relation."
        hanging = {"placeholder": "hanging from", "visible": False, "elem_id": "plain"}
        plain = gr.Textbox(label="Plain words for the relation", info=about, **hanging)
    connect(compare.change, lambda on: [gr.update(visible=on)], [compare], [plain], **QUIET)
    with gr.Group(), gr.Row():
        count = gr.Slider(1, draw.MAX_IMAGES, 4, step=1, label="Pictures of each prompt", elem_id="count")
        seed = gr.Number(0, label="Seed of the first", precision=0)
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            steps = gr.Number(20, label="Steps", precision=0, min_width=110, elem_id="draw-steps")
            guidance = gr.Number(3, label="Guidance", min_width=110)
            sampler = gr.Dropdown(list(draw.SAMPLERS), value="auto", label="Sampler", min_width=140)
        negative = gr.Textbox(label="Negative prompt", placeholder="what pictures should not show")
    names = ("key", "model", "prompts", "compare", "plain", "count", "seed", "steps", "guidance", "sampler", "negative")
    fields = (key, model, prompts, compare, plain, count, seed, steps, guidance, sampler, negative)
    return dict(zip(names, fields, strict=True)), file


def _connect_source(place: Place, form: dict[str, Any], file: gr.File, tab: gr.Tab, message: gr.HTML) -> None:
    """Sets the fields for model, steps, guidance and plain words when the user chooses a learned word."""
    of_word = [form[name] for name in ("model", "steps", "guidance", "plain")]
    with tab:
        shown = gr.State(None)  # the key of the learned word for which the fields in `of_word` were set

    def chosen(key: str | None, model: str, before: str | None) -> list[Any]:
        if key == before:  # keep what the user has typed
            return [gr.skip()] * len(of_word) + [before]
        found = draw.source(place, key or "", model)
        usual = [found.settings.sample_steps, found.settings.guidance_scale, draw.plain_words(found)]
        return [gr.update(visible=not place.is_run(key or "")), *usual, key]

    def uploaded(path: str | None, key: str | None) -> list[Any]:
        kept = place.keep_embedding(Path(path)) if path else key
        return [gr.update(choices=choices(place), value=kept)]

    def opened(key: str | None) -> list[Any]:
        known = choices(place)
        return [gr.update(choices=known, value=key if key and key in dict(known).values() else known[0][1])]

    key = form["key"]
    follow = ([key, form["model"], shown], [*of_word, shown], message)
    connect(key.change, chosen, *follow, **QUIET)
    connect(file.upload, uploaded, [file, key], [key], message, **QUIET)
    connect(connect(tab.select, opened, [key], [key], message, **QUIET).then, chosen, *follow, **QUIET)
