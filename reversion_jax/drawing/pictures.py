"""Makes picture files: PNGs with metadata, animated clips, grids, and contact sheets."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from reversion_jax.runtime import files

_INK, _PAPER, _PALE = (24, 24, 28), (255, 255, 255), (110, 110, 118)


def save_png(path: epath.Path, picture: np.ndarray | Image.Image, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a PNG with `metadata` in its text chunks. If writing fails, no incomplete file is left."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, value)
    content = io.BytesIO()
    image.save(content, "PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, content.getvalue())


def read_metadata(path: epath.Path) -> dict[str, str]:
    """Returns the metadata that `save_png` wrote; {} if there is none. Raises ValueError if the file is not a PNG."""
    try:
        with path.open("rb") as file, Image.open(file, formats=("PNG",)) as image:
            image.load()  # because a PNG's text chunks may come after its pixels
            return dict(image.text) if isinstance(image, PngImagePlugin.PngImageFile) else {}
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a PNG: {error}") from error


def clip(frames: Sequence[np.ndarray], frame_ms: int = 120) -> bytes:
    """Encodes frames, uint8 [H, W, 3], as one animated WebP that repeats forever.

    A GIF has only 256 colours. For pictures of the miniature model, GIFs and animated PNGs were five times as large as
    WebP files.
    """
    first, *others = map(Image.fromarray, frames)
    content = io.BytesIO()
    first.save(content, "WEBP", save_all=True, append_images=others, duration=frame_ms, loop=0, quality=90)
    return content.getvalue()


def save_clip(path: epath.Path, frames: Sequence[np.ndarray], frame_ms: int = 120) -> None:
    """Writes frames as an animated WebP, see `clip`. If writing fails, no incomplete file is left."""
    files.write(path, clip(frames, frame_ms))


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Arranges images, uint8 [N, H, W, 3], in a grid on white. By default the grid has about as many rows as columns.

    gap: pixels between images.
    """
    count, height, width, _ = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Breaks a text into lines of at most `width` px, and returns the first `lines` lines."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    return wrapped[:lines]


def contact_sheet(
    title: str,
    sections: Sequence[tuple[str, np.ndarray, Sequence[str]]],
    *,
    columns: int = 8,
    tile_px: int = 128,
) -> Image.Image:
    """Draws a contact sheet. Each section has a heading, images uint8 [N, H, W, 3], and N captions."""
    margin, caption_px = 16, 34
    head, body, small = (ImageFont.load_default(size) for size in (20, 15, 11))
    heights = [30 + -(-len(images) // columns) * (tile_px + caption_px + 6) for _, images, _ in sections]
    width = 2 * margin + columns * (tile_px + 6) - 6
    sheet = Image.new("RGB", (width, 2 * margin + 32 + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), title, _INK, head)
    top = margin + 32
    for (heading, images, captions), height in zip(sections, heights, strict=True):
        draw.text((margin, top + 6), heading, _INK, body)
        for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
            x = margin + (i % columns) * (tile_px + 6)
            y = top + 30 + (i // columns) * (tile_px + caption_px + 6)
            sheet.paste(Image.fromarray(image).resize((tile_px, tile_px), Image.Resampling.BICUBIC), (x, y))
            for n, line in enumerate(_wrap(caption, small, tile_px, 2)):
                draw.text((x, y + tile_px + 2 + 14 * n), line, _PALE, small)
        top += height
    return sheet
