"""Reads and writes exemplar folders. An exemplar folder has a few pictures of one relation, each with its templates.

The layout is that of the ReVersion Benchmark:

    inside/0.jpg … 8.jpg
    inside/text.json     {"0.jpg": ["bottle {} basket", "a photo of bottle {} basket"], …}
"""

import contextlib
import dataclasses
import difflib
import importlib
import json
import os
import unicodedata
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from reversion_jax.inversion.prompts import RelationPrompt, Template, parse
from reversion_jax.models.tokenizer import check_text
from reversion_jax.runtime import files
from reversion_jax.runtime.errors import warn

CAPTIONS = "text.json"
# A user expects files with these suffixes to be used as exemplars, even if `read_picture` cannot read the format.
_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP", "HEIF")  # to read some other formats, Pillow would start other programs
_UNREADABLE = (  # what Pillow and zipfile raise for an unreadable picture
    *(OSError, SyntaxError, ValueError, zipfile.BadZipFile),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """The content of an exemplar folder: N pictures in the order of text.json."""

    images: np.ndarray  # float32 [N, H, W, 3] in [-1, 1]
    templates: tuple[tuple[RelationPrompt, ...], ...]  # the parsed templates of each picture
    names: tuple[str, ...]  # file names, such as "0.jpg"


def read_folder(
    path: str | os.PathLike, size: int | tuple[int, int], *, invertible: bool = False, resize: str = "squash"
) -> Exemplars:
    """Reads an exemplar folder and resizes its pictures to `size` pixels: one number for both sides, or (H, W).

    Resizing is bicubic. Pictures are never flipped, and by default not cropped, because flipping or cropping can break
    a relation; `resized` explains `resize`. The EXIF orientation is applied, and transparent pixels are blended with
    white. HEIC pictures need the package pillow-heif. With `invertible`, every template must have an inverse.

    Raises FileNotFoundError for a missing folder, text.json or picture, and ValueError for a file that cannot be read
    or parsed. Each error message is one line and names the file. Warns of pictures that text.json does not name, and of
    pictures whose aspect ratio differs from the aspect ratio of `size` by more than a factor of 2.
    """
    folder = epath.Path(path)
    captions = read_captions(folder)
    parsed = []
    for name, templates in captions.items():
        parsed.append(tuple(_parsed(folder, name, i, t, invertible) for i, t in enumerate(templates)))
    present = {file.name for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES}
    if unnamed := sorted(name for name in present - set(captions) if not name.startswith(".")):
        warn(f"{folder}: these pictures are left out, because {CAPTIONS} does not name them: {', '.join(unnamed)}")
    size = size if isinstance(size, tuple) else (size, size)
    images = [read_resized(folder / name, size, resize) for name in captions]
    return Exemplars(np.stack(images), tuple(parsed), tuple(captions))


def read_resized(file: Path | epath.Path, size: tuple[int, int], resize: str) -> np.ndarray:
    """Reads a picture file and resizes it with `resized` to float32 [H, W, 3] in [-1, 1].

    Warns if the aspect ratios of picture and `size` differ by more than a factor of 2, unless `resize` is "pad".
    """
    picture = read_picture(file)
    height, width = size
    shape = picture.width / picture.height / (width / height)
    if resize != "pad" and not 0.5 <= shape <= 2:
        done = "squashed" if resize == "squash" else "cropped"
        others = " or ".join(repr(other) for other in ("crop", "pad") if other != resize)
        warn(
            f"{file} is {picture.width} x {picture.height} px and is {done} to {width} x {height} px: "
            f"crop it yourself, or set resize to {others}"
        )
    return resized(picture, size, resize)


def _parsed(folder: epath.Path, name: str, index: int, template: object, invertible: bool) -> RelationPrompt:
    """Parses template number `index` of the picture `name`; error messages begin with the place in text.json."""
    try:
        if not isinstance(template, str | dict):
            raise ValueError(f"template {template!r} must be a string or a JSON object")
        texts = template.values() if isinstance(template, dict) else [template]
        for text in texts:
            check_text(str(text))
        parsed = parse(template)
        if invertible:
            parsed.inverse()
    except ValueError as error:
        raise ValueError(f"{folder / CAPTIONS}, {name}[{index}]: {error}") from error
    return parsed


def write_folder(path: str | os.PathLike, images: np.ndarray, templates: Sequence[Sequence[Template]]) -> None:
    """Writes an exemplar folder that `read_folder` reads: images uint8 [N, H, W, 3] as 0.png …, and their templates.

    The folder is written completely or not at all. Raises FileExistsError if `path` exists and is not an empty folder,
    and ValueError if the images have another shape or type, or a picture has no templates.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"exemplars must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    if not 1 <= len(images) == len(templates) or not all(templates):
        raise ValueError(f"{len(images)} pictures, {len(templates)} lists: give one or more, each with templates")
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: give another path")
    captions = {f"{index}.png": list(own) for index, own in enumerate(templates)}
    with files.new_folder(folder) as draft:
        for name, image in zip(captions, images, strict=True):
            Image.fromarray(image).save(draft / name)
        text = json.dumps(captions, indent=2, ensure_ascii=False) + "\n"
        (draft / CAPTIONS).write_text(text, encoding="utf-8")


def read_captions(folder: Path | epath.Path | zipfile.Path) -> dict[str, list[Template]]:
    """Reads text.json and returns the templates of each picture, by file name. The templates are not parsed.

    The names are those of the files on disk, see `_as_on_disk`. Raises FileNotFoundError for a missing folder,
    text.json or picture, and ValueError if text.json does not map names of files to lists of templates.
    """
    file = folder / CAPTIONS
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of exemplars")
    if not files.is_file(file):
        raise FileNotFoundError(f"{file}: missing: write one that maps each picture's name to a list of templates")
    try:
        captions = files.from_json(file.read_bytes().decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(captions, dict) or not captions:
        raise ValueError(f'{file}: it must name at least one picture, as in {{"0.jpg": ["cat {{}} stone"]}}')
    present = [child.name for child in folder.iterdir()]
    found: dict[str, list[Template]] = {}
    for name, templates in captions.items():
        if "".join(name.splitlines()) != name:
            raise ValueError(f"{file}: the name {name!r} has a line break: rename the picture")
        if not isinstance(templates, list) or not templates:
            raise ValueError(f"{file}, {name}: must be a list of one or more templates, not {templates!r}")
        if name != Path(name).name:
            raise ValueError(f"{file}, {name}: name a picture in this folder, without a path")
        found[_as_on_disk(folder, name, present)] = templates
    if len(found) < len(captions):
        raise ValueError(f"{file}: two names mean the same file, because they differ only in case or accents: keep one")
    return found


def _as_on_disk(folder: Path | epath.Path | zipfile.Path, name: str, present: Sequence[str]) -> str:
    """Returns the name of the file to which a name in text.json refers; `present` lists the names in the folder.

    An exact match is preferred. The second choice is a file whose name differs only in the Unicode form of its accents.
    The third choice is a file whose name also differs in upper or lower case, because cameras write .JPG. Raises
    FileNotFoundError unless exactly one file matches, and ValueError if that file is not a regular file.
    """
    if name in present:
        real = name
    else:
        form = lambda text: unicodedata.normalize("NFC", text)
        same = [other for other in present if form(other) == form(name)]
        same = same or [other for other in present if form(other).casefold() == form(name).casefold()]
        if len(same) != 1:
            close = difflib.get_close_matches(form(name).casefold(), [form(other).casefold() for other in present], n=1)
            there = [other for other in present if form(other).casefold() in close]
            hint = f"; did you mean {there[0]}?" if there else ""
            raise FileNotFoundError(f"{folder / name}: missing, although {CAPTIONS} names it{hint}")
        (real,) = same
    if not files.is_file(folder / real):
        raise ValueError(f"{folder / real}: not a regular file, but a folder, a pipe or a device")
    return real


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """Builds the dict of a JSON object. Raises ValueError if a key is repeated."""
    # By default, json keeps only the last of two equal keys, and the templates of the first key would be lost.
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the key {repeated[0]!r} is repeated: write it once")
    return dict(pairs)


def read_picture(file: Path | epath.Path | zipfile.Path) -> Image.Image:
    """Reads a picture as RGB, with its EXIF orientation applied and its transparent pixels blended with white.

    Raises ValueError, which names the file, if the picture cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a small file that unpacks to gigabytes; here, such a file is an error.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _register_heif(file.name)
            with file.open("rb") as stream, Image.open(stream, formats=_formats()) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {opened.mode!r}: save it with 8 bits per channel")
                return _on_white(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        heic = "; for HEIC, run pip install pillow-heif" if file.name.lower().endswith((".heic", ".heif")) else ""
        raise ValueError(f"{file}: unreadable picture: save it as one of {', '.join(_formats())}{heic}") from error
    except _UNREADABLE as error:
        raise ValueError(f"{file}: unreadable picture: {error}") from error


def _register_heif(name: str) -> None:
    """Lets Pillow read a HEIC picture (Apple's format), if the package pillow-heif is installed."""
    if name.lower().endswith((".heic", ".heif")):
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()


def _formats() -> list[str]:
    """Returns the formats that Pillow may read here, with HEIF if `_register_heif` has enabled it."""
    return [name for name in _FORMATS if name != "HEIF" or "HEIF" in Image.OPEN]


def resized(picture: Image.Image, size: tuple[int, int], how: str = "squash") -> np.ndarray:
    """Resizes a picture to `size` (H, W) in pixels and returns float32 [H, W, 3] in [-1, 1].

    how: "squash" changes the aspect ratio, "crop" keeps the middle, and "pad" adds white margins.
    """
    height, width = size
    bicubic = Image.Resampling.BICUBIC
    if how == "crop":
        picture = ImageOps.fit(picture, (width, height), bicubic)
    elif how == "pad":
        picture = ImageOps.pad(picture, (width, height), bicubic, color="white")
    else:
        picture = picture.resize((width, height), bicubic)
    return np.asarray(picture, np.float32) / 127.5 - 1.0


def _on_white(picture: Image.Image) -> Image.Image:
    """Converts a picture to RGB and blends its transparent pixels with white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
