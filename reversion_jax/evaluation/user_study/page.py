"""Makes the page for voters: one HTML file that contains all pictures, works without a server, and hides the methods.

key.json, which is written together with the page, names the method of each picture. Votes cannot be counted without the
key.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from PIL import Image

from reversion_jax.data.exemplars import read_picture
from reversion_jax.evaluation.user_study.sets import StudySet
from reversion_jax.inversion.prompts import RELATION
from reversion_jax.runtime import files

PAGE, KEY = "study.html", "key.json"
_LONGEST_PX = 512  # maximum height and width of pictures in the page
_SMALL_PX = 128  # pictures up to this size are compressed without loss


def make(
    sets: Sequence[StudySet],
    methods: Sequence[str],
    exemplars: Mapping[str, Sequence[tuple[Image.Image, str]]],
    wrap: Callable = iter,
) -> tuple[str, dict]:
    """Makes the page and its key. The page and the votes call picture n of a set by the nth letter of the alphabet.

    exemplars: each relation's pictures and captions. wrap: a function that wraps the loop over sets, such as tqdm.
    """
    relations = list(dict.fromkeys(one.relation for one in sets))
    data = {
        "exemplars": [[{"src": _data_uri(p), "text": _text(t)} for p, t in exemplars[name]] for name in relations],
        "sets": [
            {
                "exemplars": relations.index(one.relation),
                "text": _text(one.prompt),
                "pictures": [_data_uri(read_picture(picture.file)) for picture in one.pictures],
            }
            for one in wrap(sets)
        ],
    }
    key = {
        "methods": list(methods),
        "sets": [
            {
                "relation": one.relation,
                "prompt": one.prompt,
                "seed": one.pictures[0].seed,
                "methods": [picture.method for picture in one.pictures],
            }
            for one in sets
        ],
    }
    study = hashlib.sha256(json.dumps([data, key]).encode()).hexdigest()[:16]
    return _fill({"study": study, **data}), {"study": study, **key}


def write(folder: Path, page: str, key: dict) -> None:
    """Writes the page and the key, the key first.

    Raises FileExistsError if the folder has the key of another study, because the votes of that study need their key.
    """
    path = folder / KEY
    text = json.dumps(key, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise FileExistsError(f"{path} is the key of another study, whose votes need it: give another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((KEY, text), (PAGE, page)):
        files.write(folder / name, content)


def _fill(data: dict) -> str:
    """Puts the data, the style and the scripts into the page's HTML."""
    part = lambda name: resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    # Escape "<", which could end the script element with the data.
    parts = {
        "STYLE": part("page.css"),
        "SCRIPT": "".join(map(part, ("page.js", "drag.js", "screens.js"))),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    page = part("page.html")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _text(prompt: str) -> list[str]:
    """Splits a prompt into its words before and after the relation."""
    return prompt.replace(RELATION, "{}").split("{}", 1)


def _data_uri(picture: Image.Image) -> str:
    """Encodes a picture as a data URI.

    Pillow does not copy a PNG's text chunks, which may name the method, into a WebP.
    """
    picture.thumbnail((_LONGEST_PX, _LONGEST_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", lossless=max(picture.size) <= _SMALL_PX, quality=90)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
