"""What a notebook adds: previews below the cell, exemplars from the browser, animations, a judged set of pictures."""

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
    """Shows the newest preview of the run in `workdir` while the body trains, each in place of the one before."""
    from IPython.display import Image, display

    place = display({"text/plain": "the newest preview comes here"}, raw=True, display_id=True)
    ended = threading.Event()

    def watch() -> None:
        shown, last = None, False
        while not last:
            last = ended.wait(every_seconds)  # then one more look, at the last preview
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
    """Asks the browser, on Colab, for the pictures of an exemplar folder; returns the folder.

    `captions` is its text.json; where it is empty, a text.json is among the files. A folder that is there already is
    kept, and nothing asked; a new one appears whole, or not at all if it cannot be read: ValueError, OSError.
    """
    if folder.is_dir():
        return folder
    try:
        from google.colab import files
    except ImportError:
        raise ValueError("files can be uploaded on Colab only: elsewhere give a folder of exemplars") from None
    with storage.new_folder(folder) as draft:
        with contextlib.chdir(draft):
            files.upload()  # into the working directory
        if captions:
            text = json.dumps(dict(captions), indent=2, ensure_ascii=False) + "\n"
            (draft / exemplars.CAPTIONS).write_text(text, encoding="utf-8")
        exemplars.read_folder(draft, size=64)  # its errors come before anything is kept
    return folder


def animations(clips: Mapping[str, np.ndarray], width_px: int = 256, frame_ms: int = 120) -> "HTML":
    """Clips, images float32 [N, H, W, 3] in [-1, 1] by their titles, side by side below a cell.

    The pictures are part of the HTML, so no file has to stay beside the notebook.
    """
    from html import escape

    from IPython.display import HTML  # IPython's Image does not know WebP on Colab

    shown = []
    for title, images in clips.items():
        frames = list(generate.to_uint8(images))
        content = base64.b64encode(pictures.clip([*frames, *frames[-2:0:-1]], frame_ms)).decode()  # there and back
        picture = f'<img width="{width_px}" src="data:image/webp;base64,{content}">'
        shown.append(f'<figure style="display:inline-block">{picture}<figcaption>{escape(title)}</figcaption></figure>')
    return HTML("".join(shown))


class Judged(NamedTuple):
    """Pictures of pairs that neither the miniature nor an exemplar showed, and what the miniature's judge says."""

    images: np.ndarray  # uint8 [N, 64, 64, 3]
    captions: list[str]  # what the judge sees in them
    relation: np.ndarray  # bool [N]: it is the one asked for
    entities: np.ndarray  # bool [N]: both are there, unmixed, and in their places
    leaked: np.ndarray  # bool [N]: the picture is hatched

    def shares(self) -> dict[str, float]:
        """The share of pictures in which this or that is so."""
        both = self.relation & self.entities
        found = {"relation right": self.relation, "both entities right": self.entities, "all right": both}
        return {name: float(own.mean()) for name, own in (found | {"hatched": self.leaked}).items()}

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {round(share * len(self.images))}" for name, share in self.shares().items())
        return f"{counts} of {len(self.images)}"


def draw_and_judge(
    model: Model, words: public.LearnedWords, relation: str, count: int, *, inverse: bool = False, **sampling: Any
) -> Judged:
    """Draws "A <R> B", or "B <R-inv> <R> A" (`inverse`), of `count` unseen pairs, and asks the miniature's judge.

    The same pairs and seeds at every call, so that calls can be compared. sampling: as of `public.draw`. ValueError.
    """
    asked = scenes.unseen_scenes(relation, count, seed=1)
    parsed = [parse(f"{scene.subject} {{}} {scene.object}") for scene in asked]
    texts = [prompt.inverse() if inverse else prompt.direct() for prompt in parsed]
    images = public.draw(model, texts, words, **sampling)
    verdict = judge.look(images)
    captions = [name.replace("_", " ") for name in verdict.names()]
    return Judged(generate.to_uint8(images), captions, *judge.right(verdict, asked), leaked=judge.leaked(images))
