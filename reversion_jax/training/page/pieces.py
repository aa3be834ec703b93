"""Returns small parts of the page as HTML. Text from the user or from files is escaped in this module."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from reversion_jax.training.page import trainer
from reversion_jax.training.page.captions import Checked
from reversion_jax.training.page.place import Listed

_NEAREST = 6  # how many nearest words to show


def prompt(text: str) -> str:
    """Returns a prompt with its learned words in colour."""
    return re.sub(r"&lt;(R|R-inv)&gt;", r"<b>&lt;\1&gt;</b>", html.escape(text))


def checked(captions: Sequence[Checked]) -> str:
    """Returns the prompts that a picture's captions become, or the faults, or a hint if there are no captions."""
    if not captions:
        return '<p class="hint">Write what the picture shows, with {} for the relation.</p>'
    rows = []
    for caption in captions:
        if caption.fault:
            rows.append(f'<p class="fault">{html.escape(caption.fault)}</p>')
            continue
        inverse = f"<dt>inverse</dt><dd>{prompt(caption.inverse)}</dd>" if caption.inverse else ""
        rows.append(f'<dl class="prompts"><dt>direct</dt><dd>{prompt(caption.direct)}</dd>{inverse}</dl>')
    return "".join(rows)


def tiles(images: np.ndarray) -> str:
    """Returns the images, uint8 [N, H, W, 3], as small pictures in rows that fill the page's width."""
    return f'<div class="tiles">{"".join(f"<img src={_inline(image)!r} alt=exemplar>" for image in images)}</div>'


def _inline(image: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def bars(values: Mapping[str, float]) -> str:
    """Returns a list of words with their cosines as bars."""
    rows = (
        f'<li><span>{html.escape(word)}</span><i style="width:{100 * max(0.0, min(1.0, cosine)):.0f}%"></i>'
        f"<em>{cosine:.2f}</em></li>"
        for word, cosine in values.items()
    )
    return f'<ol class="bars">{"".join(rows)}</ol>'


def fault(text: str) -> str:
    """Returns a paragraph that shows an error."""
    return f'<p class="fault" role="alert">{html.escape(text)}</p>'


def notes(lines: Sequence[str]) -> str:
    """Returns paragraphs that show the library's warnings."""
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def hint(text: str) -> str:
    """Returns a paragraph in small print; "" for an empty text."""
    return f'<p class="hint">{html.escape(text)}</p>' if text else ""


def prompts(texts: Mapping[str, str]) -> str:
    """Returns a list of prompts with their labels. A prompt that is its own label is shown only once."""
    rows = (
        f"<dt>{html.escape(name)}</dt><dd>{prompt(text)}</dd>"
        if name != text
        else f'<dd class="alone">{prompt(text)}</dd>'
        for name, text in texts.items()
    )
    return f'<dl class="prompts">{"".join(rows)}</dl>'


def run_list(runs: Sequence[Listed], shown: str, state: trainer.State) -> list[tuple[str, str]]:
    """Returns (label, name) for each run in the list. `shown` and the current run are listed even without a folder."""
    names = [run.name for run in runs]
    new = {shown: "nothing is learned yet", **({state.name: "getting ready"} if state.under_way else {})}
    first = [(f"{name} · {said}", name) for name, said in new.items() if name and name not in names]
    return [*first, *((run.describe(), run.name) for run in runs)]


def elsewhere(state: trainer.State) -> str:
    """Returns a hint that a run is in progress that the page does not show."""
    return hint(f"{state.name} is being learned. This device learns one relation at a time.")


def empty(text: str) -> str:
    """Returns a box with a text, for a place that has no content yet."""
    return f'<p class="empty">{html.escape(text)}</p>'


def status(state: trainer.State) -> str:
    """Returns the name, the stage and the progress bar of a run, and its error and warnings."""
    name, done = html.escape(state.name), f"step {state.step:,} of {state.steps:,}"
    share = 100 * state.step / max(1, state.steps)
    left = state.seconds_left()
    said = {
        trainer.PREPARING: "getting ready: the model is read and the step is compiled",
        trainer.TRAINING: done + (f", about {_duration(left)} left" if left is not None else ""),
        trainer.STOPPING: f"{done}, stopping after the current steps",
        trainer.FINISHED: f"finished, {state.steps:,} steps",
        trainer.STOPPED: f"stopped at {done}; it can be resumed",
        trainer.FAILED: "stopped by an error",
    }[state.stage]
    waiting = " waiting" if state.stage == trainer.PREPARING else ""
    filled = f'<i style="width:{share:.1f}%"></i>'
    bar = f'<div class="bar{waiting}" role="progressbar" aria-valuenow="{share:.0f}">{filled}</div>'
    failed = fault(state.message) if state.message else ""
    return f'<div class="status {state.stage}"><p><b>{name}</b> {said}</p>{bar}{failed}{notes(state.notes)}</div>'


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def nearest(words: Mapping[str, float]) -> str:
    """Returns the nearest words of <R> as bars; "" if there are none."""
    return f"<h3>Nearest words of <b>&lt;R&gt;</b></h3>{bars(dict(list(words.items())[:_NEAREST]))}" if words else ""


def words(seen: Mapping[str, Mapping]) -> str:
    """Returns a card for each row of the learned words, from the result of `look.as_json`."""
    return f'<div class="cards">{"".join(_card(name, row) for name, row in seen.items())}</div>'


def _card(name: str, row: Mapping) -> str:
    start = next((key for key in row if key.startswith("cosine_to_")), "")
    facts = {
        "length": f"{row['norm']:.2f}",
        "median length of the model's words": f"{row['median_norm_of_words']:.2f}",
        **({f"cosine to its start, “{start.removeprefix('cosine_to_')}”": f"{row[start]:.2f}"} if start else {}),
        **{f"cosine to {other}": f"{cosine:.2f}" for other, cosine in row["cosine_to"].items()},
    }
    told = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items())
    words_near = f"<h4>Nearest words of the model</h4>{bars(dict(list(row['nearest'].items())[:_NEAREST]))}"
    return f'<section><h3>{html.escape(name)}</h3><dl class="facts">{told}</dl>{words_near}</section>'
