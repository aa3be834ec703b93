"""Writes uploaded pictures and their captions as an exemplar folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reversion_jax.data import exemplars
from reversion_jax.inversion.prompts import Template
from reversion_jax.runtime import files

MAX_PICTURES = 12
MAX_FILE = "25mb"  # maximum size of one uploaded file
_THUMBNAIL_PX = 320


def read(picture: Path) -> Image.Image:
    """Reads an uploaded picture as RGB.

    Raises ValueError if the picture cannot be read; the message gives the file the name that the user knows.
    """
    try:
        return exemplars.read_picture(picture)
    except ValueError as error:
        raise ValueError(str(error).replace(str(picture), picture.name)) from error


def thumbnail(picture: Path) -> Image.Image:
    """Returns a small copy of a picture, for the page. Raises ValueError if the picture cannot be read."""
    image = read(picture)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return image


def write(folder: Path, pictures: Sequence[Path], templates: Sequence[Sequence[Template]], *, invertible: bool) -> None:
    """Writes pictures and templates as an exemplar folder.

    invertible: whether the templates need inverse prompts. Pictures are written as new PNG files without their
    metadata, such as the place where a camera took them.
    Raises ValueError or OSError, and leaves no folder, if the exemplars cannot be used.
    """
    captions = {f"{number}.png": list(own) for number, own in enumerate(templates)}
    with files.new_folder(folder) as draft:
        for name, picture in zip(captions, pictures, strict=True):
            read(picture).save(draft / name)
        text = json.dumps(captions, indent=2, ensure_ascii=False) + "\n"
        (draft / exemplars.CAPTIONS).write_text(text, encoding="utf-8")
        exemplars.read_folder(draft, 64, invertible=invertible)  # if `read_folder` raises, no folder is kept
