"""Puts a run's words on the Hugging Face hub, with a model card. Nothing is sent unless it is asked for.

What is sent: the files that `export` writes, the card, and the newest preview. Not the contact sheet, which shows the
exemplars: they may be private. Nor config.json, whose paths tell of a person's machine.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from reversion_jax.runs import card, export, folder
from reversion_jax.runtime import files
from reversion_jax.weights import hub

CARD, PICTURE = "README.md", "preview.png"


class Push(NamedTuple):
    """How a user wants a run's words to be pushed."""

    repository: str  # owner/name
    private: bool = False
    license: str = ""  # a key of the hub's list, such as cc-by-4.0; "" says nothing
    dry_run: bool = False  # writes the folder and sends nothing


def share(
    workdir: epath.Path, out: epath.Path | None, push: Push, step: int | None = None, *, onetrainer: bool = False
) -> str:
    """Exports the run in `workdir` and sends its files to the hub; returns what was done, for people.

    out: a folder that gets the same files; None where nobody needs them here. ValueError, one line; OSError.
    """
    if push.dry_run and out is None:
        raise ValueError("--dry_run writes what would be sent: say where by --out")
    if out is not None and files.is_remote(out):
        raise ValueError(f"{out}: the hub's library sends from folders of this machine only")
    if out is not None and (out / CARD).is_file() and card.TAG not in (out / CARD).read_text():
        raise ValueError(f"{out / CARD} is no card of ours: give another --out")
    hub.check_push(push.repository, sends=not push.dry_run)
    run = folder.read(workdir, step)
    with contextlib.ExitStack() as stack:
        place = out or epath.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        written = export.write(run, place, onetrainer=onetrainer)
        names = [path.relative_to(place).as_posix() for path in written]
        names += _write_card(workdir, run, push, place, names)
        said = f"{export.describe(run, written)}\n" if out else ""
        if push.dry_run:
            return f"{said}nothing was sent; {push.repository} would get {', '.join(names)}"
        address = hub.push(Path(place), names, push.repository, private=push.private, message=run.describe())
    return f"{said}{address} has {', '.join(names)}"


def _write_card(
    workdir: epath.Path, run: folder.LearnedRun, push: Push, place: epath.Path, names: list[str]
) -> list[str]:
    """Writes the card of the files `names`, and its picture if the run has one; returns their names."""
    picture, drawn = preview(workdir, run.step), ""
    if picture:
        drawn = _prompts(picture)
        files.write(place / PICTURE, picture.read_bytes())
    origin: dict[str, Any] = {}
    if (workdir / folder.CONFIG).is_file():  # runs before version 0.2 have it in their parent alone
        _, origin = folder.read_settings(workdir)
    shown = {"picture": PICTURE if picture else "", "drawn": drawn}
    files.write(place / CARD, card.card(run, origin, push.repository, names, license=push.license, **shown))
    return [CARD, *([PICTURE] if picture else [])]


def preview(workdir: epath.Path, step: int) -> epath.Path | None:
    """The newest preview of a run up to a step; None if there is none."""
    paths = folder.previews(workdir)
    shown = [number for number in paths if number <= step]
    return paths[max(shown)] if shown else None


def _prompts(picture: epath.Path) -> str:
    """The prompts of a preview; "" for those of earlier versions, which do not say."""
    from PIL import Image

    try:
        with picture.open("rb") as file, Image.open(file) as image:
            return getattr(image, "text", {}).get("prompts", "")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"{picture} is damaged: delete it, and the one before it is taken") from error
