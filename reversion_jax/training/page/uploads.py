"""Uploaded pictures and their captions become an exemplar folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reversion_jax.data import exemplars
from reversion_jax.inversion.prompts import Template
from reversion_jax.runtime import files

MAX_PICTURES = 12
MAX_FILE = "25mb"  # of one upload
_THUMBNAIL_PX = 320


def read(picture: Path) -> Image.Image:
    """An uploaded picture in RGB. ValueError, which names it as the user does, if it cannot be read."""
    try:
        return exemplars.read_picture(picture)
    except ValueError as error:
        raise ValueError(str(error).replace(str(picture), picture.name)) from error


def thumbnail(picture: Path) -> Image.Image:
    """A small copy, for the page. ValueError as in `read`."""
    image = read(picture)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return image


def write(folder: Path, pictures: Sequence[Path], templates: Sequence[Sequence[Template]], *, invertible: bool) -> None:
    """Writes pictures and templates as an exemplar folder, which appears whole or not at all. ValueError, OSError.

    A picture is written anew, so that what a camera wrote beside it, such as the place, is left out.
    """
    captions = {f"{number}.png": list(own) for number, own in enumerate(templates)}
    with files.new_folder(folder) as draft:
        for name, picture in zip(captions, pictures, strict=True):
            read(picture).save(draft / name)
        text = json.dumps(captions, indent=2, ensure_ascii=False) + "\n"
        (draft / exemplars.CAPTIONS).write_text(text, encoding="utf-8")
        exemplars.read_folder(draft, 64, invertible=invertible)  # finds fault before anything is kept
