"""What a notebook adds to a training run: its previews below the cell, exemplars from the browser."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reversion_jax.data import exemplars
from reversion_jax.inversion.prompts import Template
from reversion_jax.runtime import files as storage


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
