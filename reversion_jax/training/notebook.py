"""Functions for notebooks: show previews and animations below a cell, upload exemplars, and judge pictures."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reversion_jax.data import exemplars
from reversion_jax.drawing import generate, pictures, public
from reversion_jax.inversion.prompts import Template, parse
from reversion_jax.miniature import judge, scenes
from reversion_jax.runtime import files as storage
from reversion_jax.weights.load import Model

if TYPE_CHECKING:
    from IPython.display import HTML


@contextlib.contextmanager
def show_previews(workdir: Path, every_seconds: float = 2.0) -> Iterator[None]:
    """Shows the newest preview of the run in `workdir` while the `with` body trains.

    A new preview replaces the previous preview.
    """
    from IPython.display import Image, display

    place = display({"text/plain": "the newest preview will appear here"}, raw=True, display_id=True)
    ended = threading.Event()

    def watch() -> None:
        shown, last = None, False
        while not last:
            last = ended.wait(every_seconds)  # True at the end of training; then show the last preview and stop
            newest = max((workdir / "previews").glob("*.png"), default=None)
            if newest is not None and newest != shown:
                place.update(Image(newest.read_bytes()))
                shown = newest

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def upload_exemplars(folder: Path, captions: Mapping[str, Sequence[Template]]) -> Path:
    """Makes an exemplar folder from files that the user uploads in the browser, on Colab; returns the folder.

    captions: captions by file name, as in text.json. If there are no captions, the user has to upload a text.json.
    If the folder exists, nothing is uploaded. The folder is created only if its exemplars can be read; otherwise raises
    ValueError or OSError.
    """
    if folder.is_dir():
        return folder
    try:
        from google.colab import files
    except ImportError:
        raise ValueError("files can only be uploaded on Colab: elsewhere, give a folder of exemplars") from None
    with storage.new_folder(folder) as draft:
        with contextlib.chdir(draft):
            files.upload()  # writes the files into the working directory
        if captions:
            text = json.dumps(dict(captions), indent=2, ensure_ascii=False) + "\n"
            (draft / exemplars.CAPTIONS).write_text(text, encoding="utf-8")
        exemplars.read_folder(draft, size=64)  # raises if the exemplars are not valid; then no folder is kept
    return folder


def animations(clips: Mapping[str, np.ndarray], width_px: int = 256, frame_ms: int = 120) -> "HTML":
    """Returns HTML that shows clips side by side below a cell; each clip plays forwards and backwards.

    clips: each clip's frames, float32 [N, H, W, 3] in [-1, 1], by the clip's title.
    The HTML contains the pictures, so the notebook needs no other files.
    """
    from html import escape

    from IPython.display import HTML  # IPython's Image does not support WebP on Colab

    shown = []
    for title, images in clips.items():
        frames = list(generate.to_uint8(images))
        content = base64.b64encode(pictures.clip([*frames, *frames[-2:0:-1]], frame_ms)).decode()
        picture = f'<img width="{width_px}" src="data:image/webp;base64,{content}">'
        shown.append(f'<figure style="display:inline-block">{picture}<figcaption>{escape(title)}</figcaption></figure>')
    return HTML("".join(shown))


class Judged(NamedTuple):
    """Pictures of unseen pairs of entities, and the verdicts on the pictures from the miniature model's judge.

    A pair is unseen if neither the miniature model's training pictures nor the exemplars show it.
    """

    images: np.ndarray  # uint8 [N, 64, 64, 3]
    captions: list[str]  # what the judge recognises in each picture
    relation: np.ndarray  # bool [N]: the relation is the one in the prompt
    entities: np.ndarray  # bool [N]: both entities are present, not mixed, and where the prompt has them
    leaked: np.ndarray  # bool [N]: the picture is hatched

    def shares(self) -> dict[str, float]:
        """Returns the shares of pictures with the right relation, the right entities, both of these, or hatching."""
        both = self.relation & self.entities
        found = {"relation right": self.relation, "both entities right": self.entities, "all right": both}
        return {name: float(own.mean()) for name, own in (found | {"hatched": self.leaked}).items()}

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {round(share * len(self.images))}" for name, share in self.shares().items())
        return f"{counts} of {len(self.images)}"


def draw_and_judge(
    model: Model, words: public.LearnedWords, relation: str, count: int, *, inverse: bool = False, **sampling: Any
) -> Judged:
    """Draws `count` unseen pairs of entities with learned words; the miniature model's judge checks the pictures.

    The prompts are "A <R> B", or, if `inverse` is true, "B <R-inv> <R> A". Every call uses the same pairs and seeds, so
    that the results of calls can be compared. sampling: arguments of `public.draw`. Raises ValueError for bad input.
    """
    asked = scenes.unseen_scenes(relation, count, seed=1)
    parsed = [parse(f"{scene.subject} {{}} {scene.object}") for scene in asked]
    texts = [prompt.inverse() if inverse else prompt.direct() for prompt in parsed]
    images = public.draw(model, texts, words, **sampling)
    verdict = judge.look(images)
    captions = [name.replace("_", " ") for name in verdict.names()]
    return Judged(generate.to_uint8(images), captions, *judge.right(verdict, asked), leaked=judge.leaked(images))
