"""The form for exemplars in the Learn tab: drawn shapes, or uploaded pictures with a caption beside each."""

from pathlib import Path
from typing import Any

import gradio as gr

from reversion_jax.data import exemplars
from reversion_jax.miniature import scenes
from reversion_jax.training.page import captions, pieces, start, uploads
from reversion_jax.training.page.handlers import QUIET, connect
from reversion_jax.training.page.uploads import MAX_PICTURES

DRAWN, OWN = "Drawn shapes", "My pictures"
_FIRST = "hanging_from"  # the relation that is selected when the page opens
_ABOUT_OWN = (
    "Write in each caption what the picture shows, with {} for the relation. The miniature knows only coloured shapes. "
    "For photographs choose Stable Diffusion 1.5 below, which needs a GPU."
)


class ExemplarForm:
    """The fields for exemplars in the form. `fields` has the fields that `start.start` reads, by name."""

    def __init__(self) -> None:
        gr.HTML("<h2>Pictures of one relation</h2>")
        self._source = gr.Radio([DRAWN, OWN], value=DRAWN, show_label=False, container=False, elem_id="source")
        with gr.Column() as self._of_drawn:
            relations = [(name.replace("_", " "), name) for name in scenes.RELATIONS]
            with gr.Group():
                self._relation = gr.Dropdown(relations, value=_FIRST, label="Relation", elem_id="relation")
                with gr.Row():
                    self._count = gr.Slider(1, MAX_PICTURES, 8, step=1, label="How many", elem_id="how-many")
                    self._hatched = gr.Checkbox(label="Hatched", info="A style that the word should not learn.")
            self._tiles = gr.HTML(_drawn(_FIRST, 8, False)[0], elem_id="drawn")
        with gr.Column(visible=False) as self._of_own:
            gr.HTML(f'<p class="hint">{_ABOUT_OWN}</p>')
            label = f"4 to 10 pictures, at most {MAX_PICTURES}; a text.json fills in captions"
            kinds = {"file_count": "multiple", "file_types": ["image", ".json"]}
            self._files = gr.File(label=label, height=140, elem_id="files", **kinds)
            self._message = gr.HTML(elem_id="files-message")
            self._rows = [_Row(number) for number in range(MAX_PICTURES)]
        self._laid_out = gr.State([])  # paths of the pictures in the rows
        self.fields = {
            "source": self._source,
            "relation": self._relation,
            "count": self._count,
            "hatched": self._hatched,
            "files": self._files,
            **{f"caption {number}": row.caption for number, row in enumerate(self._rows)},
        }

    def connect(self, method: gr.Dropdown) -> None:
        """Connects the fields' events to functions.

        method: the field that decides whether captions need inverse prompts.
        """
        texts = [row.caption for row in self._rows]
        show = lambda source: [gr.update(visible=source == DRAWN), gr.update(visible=source == OWN)]
        connect(self._source.change, show, [self._source], [self._of_drawn, self._of_own], **QUIET)
        of_drawn = [self._relation, self._count, self._hatched]
        for field in of_drawn:
            connect(field.change, _drawn, of_drawn, [self._tiles], **QUIET)
        shown = [part for row in self._rows for part in (row.row, row.image, row.caption)]
        inputs = [self._files, self._laid_out, *texts]
        connect(self._files.change, _lay_out, inputs, [self._laid_out, *shown], self._message, **QUIET)
        for row in self._rows:
            # This function runs at each keystroke, and only the last result matters.
            typed = {"queue": False, "trigger_mode": "always_last", **QUIET}
            connect(row.caption.change, _checked, [method, row.caption], [row.check], **typed)
        checks = [row.check for row in self._rows]
        connect(method.change, _checked, [method, *texts], checks, **QUIET)


class _Row:
    """A row with a picture, its caption, and the caption's prompts or fault."""

    def __init__(self, number: int):
        bare: dict[str, Any] = {"show_label": False, "container": False}
        with gr.Row(visible=False, elem_classes="exemplar") as self.row:
            size = {"height": 104, "width": 104, "scale": 0, "min_width": 104}
            self.image = gr.Image(interactive=False, buttons=[], **bare, **size)
            with gr.Column(scale=1, min_width=160):
                example = "a photo of cat {} stone"
                self.caption = gr.Textbox(placeholder=example, max_lines=4, elem_id=f"caption-{number}", **bare)
                self.check = gr.HTML(pieces.checked([]), elem_id=f"check-{number}")


def _drawn(relation: str, count: float, hatched: bool) -> list[str]:
    """Returns HTML that shows the drawn exemplars as a run will use them."""
    images, _ = scenes.exemplars(relation, min(MAX_PICTURES, max(1, int(count))), seed=0, hatched=hatched)
    return [pieces.tiles(images)]


def _checked(method: str, *texts: str) -> list[str]:
    """Returns, for each caption field, HTML with the prompts or the fault of each of its lines."""
    invertible = method == start.INVERTIBLE
    return [pieces.checked([captions.check(line, invertible) for line in captions.lines(text)]) for text in texts]


def _lay_out(files: list[str] | None, before: list[str], *written: str) -> list[Any]:
    """Shows one row for each uploaded picture.

    Keeps captions that the user has written, and fills empty captions from a text.json.
    before: paths of the pictures that had rows so far. written: the captions in these rows.
    """
    paths = [Path(file) for file in files or []]
    shown = start.pictures(paths)
    texts = dict(zip(before, written, strict=False))
    given: dict[str, str] = {}
    for path in paths:
        if path.name == exemplars.CAPTIONS:
            given = captions.read_file(path, [picture.name for picture in shown])
    values: list[Any] = [[str(path) for path in shown]]
    for path in shown:
        text = texts.get(str(path)) or given.get(path.name, "")
        values += [gr.update(visible=True), uploads.thumbnail(path), text]
    return values + [gr.update(visible=False), None, ""] * (MAX_PICTURES - len(shown))
