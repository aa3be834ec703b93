"""The Learn tab: pictures and captions, settings, the current run, and the list of runs."""

from typing import Any

import gradio as gr

from reversion_jax import config
from reversion_jax.training.page import start
from reversion_jax.training.page.exemplar_form import OWN, ExemplarForm
from reversion_jax.training.page.handlers import QUIET, connect
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.run_room import RunRoom
from reversion_jax.training.page.trainer import Trainer

_METHODS = [
    ("Inv-ReVersion", "inv_reversion"),
    ("ReVersion", "reversion"),
    ("Textual Inversion", "textual_inversion"),
]


def build(place: Place, trainer: Trainer) -> None:
    """Builds the Learn tab in the page."""
    with gr.Tab("Learn", id="learn"), gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            exemplars = ExemplarForm()
            settings = _settings(place)
            begin = gr.Button("Learn this relation", variant="primary", elem_id="start")
            message = gr.HTML(elem_id="learn-message")
        with gr.Column(scale=6, min_width=320):
            run = RunRoom(place, trainer, begin)
    exemplars.connect(settings["method"])
    steps_of = lambda model: [start.default_steps(place, model)]
    connect(settings["model"].change, steps_of, [settings["model"]], [settings["steps"]], message, **QUIET)
    fields = {**settings, **exemplars.fields}

    def started(*values: Any) -> list[Any]:
        form = dict(zip(fields, values, strict=True))
        form["captions"] = [value for name, value in form.items() if name.startswith("caption ")]
        return [run.select(start.start(place, trainer, form, drawn=form["source"] != OWN))]

    run.refresh_after(connect(begin.click, started, list(fields.values()), [run.chosen], message))


def _settings(place: Place) -> dict[str, gr.components.Component]:
    """Builds the fields for a run's settings, and returns them by name.

    The names are the settings' names in config.py, and `name` for the field with the run's name.
    """
    gr.HTML("<h2>Settings</h2>")
    with gr.Group():
        with gr.Row():
            model = gr.Dropdown(
                place.models(),
                value=config.MINIATURE,
                label="Model",
                info="Or another Stable Diffusion 1.x: owner/name on the Hugging Face hub.",
                allow_custom_value=True,
                elem_id="model",
            )
            about = "Only Inv-ReVersion learns <R-inv> as well, the word for the inverse."
            method = gr.Dropdown(_METHODS, value=start.INVERTIBLE, label="Method", info=about, elem_id="method")
        with gr.Row():
            usual = start.default_steps(place, config.MINIATURE)
            steps = gr.Number(
                usual, label="Steps", info="More steps learn better, but take longer.", elem_id="steps", precision=0
            )
            about = "Name of the relation and its folder. May be empty."
            name = gr.Textbox(label="Name", placeholder="hug", info=about, max_length=60, elem_id="name")
    with gr.Accordion("More settings", open=False):
        about = "0: prepositions, for where things are. 1: verbs, for what they do."
        verbs = gr.Slider(0, 1, 0.5, step=0.1, label="Steer the word towards", info=about)
        seed = gr.Number(0, label="Seed", precision=0)
        about = "One per line. They are drawn several times during training. Empty: prompts that suit the model."
        previews = gr.Textbox(label="Preview prompts", lines=3, info=about, placeholder="otter <R> teapot")
    return {
        "model": model,
        "method": method,
        "steps": steps,
        "name": name,
        "verb_weight": verbs,
        "seed": seed,
        "preview_prompts": previews,
    }
