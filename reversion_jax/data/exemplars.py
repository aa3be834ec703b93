"""Exemplar folders: a few pictures of one relation, each with its templates.

Laid out as in the ReVersion Benchmark:

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
# What a person takes for a picture, whether it can be read or not.
_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP", "HEIF")  # not all of Pillow's: some start other programs
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, zipfile.BadZipFile),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclasses.dataclass(frozen=True)
class Exemplars:
    """Pictures in text.json's order: images float32 [N, H, W, 3] in [-1, 1], with templates and names."""

    images: np.ndarray
    templates: tuple[tuple[RelationPrompt, ...], ...]
    names: tuple[str, ...]


def read_folder(
    path: str | os.PathLike, size: int | tuple[int, int], *, invertible: bool = False, resize: str = "squash"
) -> Exemplars:
    """Reads an exemplar folder, each picture resized to `size` pixels, both sides or (H, W).

    Bicubic, no flip, and by default no crop (either can break a relation); see `resized` for `resize`. EXIF orientation
    applied, transparency put on white. HEIC pictures need the package pillow-heif. `invertible`: every template must
    have an inverse. Errors, one line each, name the file: FileNotFoundError for a missing folder, text.json or picture,
    ValueError for what cannot be read or parsed. A warning tells of a picture that text.json does not name, and of one
    whose sides are squashed or cut by more than half.
    """
    folder = epath.Path(path)
    captions = read_captions(folder)
    parsed = []
    for name, templates in captions.items():
        parsed.append(tuple(_parsed(folder, name, i, t, invertible) for i, t in enumerate(templates)))
    present = {file.name for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES}
    if unnamed := sorted(name for name in present - set(captions) if not name.startswith(".")):
        warn(f"{folder}: left out, not in {CAPTIONS}: {', '.join(unnamed)}")
    size = size if isinstance(size, tuple) else (size, size)
    images = [read_resized(folder / name, size, resize) for name in captions]
    return Exemplars(np.stack(images), tuple(parsed), tuple(captions))


def read_resized(file: Path | epath.Path, size: tuple[int, int], resize: str) -> np.ndarray:
    """A picture file as `resized` makes it, with a warning where its sides are squashed or cut by more than half."""
    picture = read_picture(file)
    height, width = size
    shape = picture.width / picture.height / (width / height)
    if resize != "pad" and not 0.5 <= shape <= 2:
        done = "squashed" if resize == "squash" else "cut"
        others = " or ".join(repr(other) for other in ("crop", "pad") if other != resize)
        warn(
            f"{file} is {picture.width} x {picture.height} px, and {done} to {width} x {height}: cut it yourself, or "
            f"set resize to {others}"
        )
    return resized(picture, size, resize)


def _parsed(folder: epath.Path, name: str, index: int, template: object, invertible: bool) -> RelationPrompt:
    try:
        if not isinstance(template, str | dict):
            raise ValueError(f"template {template!r} is neither a string nor an object")
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
    """Writes images uint8 [N, H, W, 3] as 0.png … and their templates, for `read_folder` to read back.

    The folder appears whole or not at all. FileExistsError where anything but an empty folder stands there.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"exemplars are uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    if not 1 <= len(images) == len(templates) or not all(templates):
        raise ValueError(f"{len(images)} pictures, {len(templates)} lists: want one or more, each with templates")
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: name another")
    captions = {f"{index}.png": list(own) for index, own in enumerate(templates)}
    with files.new_folder(folder) as draft:
        for name, image in zip(captions, images, strict=True):
            Image.fromarray(image).save(draft / name)
        text = json.dumps(captions, indent=2, ensure_ascii=False) + "\n"
        (draft / CAPTIONS).write_text(text, encoding="utf-8")


def read_captions(folder: Path | epath.Path | zipfile.Path) -> dict[str, list[Template]]:
    """text.json, checked down to the lists: picture names and what stands for each. Errors as in `read_folder`."""
    file = folder / CAPTIONS
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of exemplars")
    if not files.is_file(file):
        raise FileNotFoundError(f"{file}: missing; it maps each picture's name to a list of templates")
    try:
        captions = files.from_json(file.read_bytes().decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(captions, dict) or not captions:
        raise ValueError(f'{file}: want at least one exemplar, as in {{"0.jpg": ["cat {{}} stone"]}}')
    present = [child.name for child in folder.iterdir()]
    found: dict[str, list[Template]] = {}
    for name, templates in captions.items():
        if not isinstance(templates, list) or not templates:
            raise ValueError(f"{file}, {name}: want a list of one or more templates, not {templates!r}")
        if name != Path(name).name:
            raise ValueError(f"{file}, {name}: name a picture in this folder, without a path")
        found[_as_on_disk(folder, name, present)] = templates
    if len(found) < len(captions):
        raise ValueError(f"{file}: two of its names mean the same file; they differ in their accents' or letters' form")
    return found


def _as_on_disk(folder: Path | epath.Path | zipfile.Path, name: str, present: Sequence[str]) -> str:
    """The name of the file that is meant: accents have two forms, cameras write .JPG. FileNotFoundError, ValueError.

    A file that differs in the case of its name alone is another one, unless there is no other.
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
            hint = f"; there is {there[0]}" if there else ""
            raise FileNotFoundError(f"{folder / name}: missing, although {CAPTIONS} names it{hint}")
        (real,) = same
    if not files.is_file(folder / real):
        raise ValueError(f"{folder / real}: no file, but a folder, a pipe or a device")
    return real


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    # JSON keeps the last of two equal keys and loses the captions of the first.
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{repeated[0]!r} stands there more than once")
    return dict(pairs)


def read_picture(file: Path | epath.Path | zipfile.Path) -> Image.Image:
    """A picture in RGB, upright, transparency put on white; ValueError, naming the file, if it cannot be read."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns where a small file unpacks to a picture of gigabytes.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            _register_heif(file.name)
            with file.open("rb") as stream, Image.open(stream, formats=_formats()) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {opened.mode!r}: save it with 8 bits a channel")
                return _on_white(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        heic = "; HEIC needs pip install pillow-heif" if file.name.lower().endswith((".heic", ".heif")) else ""
        raise ValueError(f"{file}: unreadable picture: none of {', '.join(_formats())}{heic}") from error
    except _UNREADABLE as error:
        raise ValueError(f"{file}: unreadable picture: {error}") from error


def _register_heif(name: str) -> None:
    """Has Pillow read Apple's pictures, where the package for it is installed."""
    if name.lower().endswith((".heic", ".heif")):
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()


def _formats() -> list[str]:
    return [name for name in _FORMATS if name != "HEIF" or "HEIF" in Image.OPEN]


def resized(picture: Image.Image, size: tuple[int, int], how: str = "squash") -> np.ndarray:
    """A picture as float32 [H, W, 3] in [-1, 1] of `size` (H, W): squashed, cropped to its middle, or padded white."""
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
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
