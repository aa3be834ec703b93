"""Uploads a run's words to the Hugging Face hub, with a model card. Nothing is sent unless the user asks for it.

The upload has the files that `export` writes, the card, and the newest preview. The contact sheet is not sent, because
it shows the exemplars, which may be private. config.json is not sent, because its paths describe the user's machine.
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
    """How the user wants a run's words to be uploaded."""

    repository: str  # owner/name
    private: bool = False
    license: str = ""  # a key of the hub's list of licenses, such as cc-by-4.0; "" leaves the license out
    dry_run: bool = False  # only writes the files to a folder and sends nothing


def share(
    workdir: epath.Path, out: epath.Path | None, push: Push, step: int | None = None, *, onetrainer: bool = False
) -> str:
    """Exports the run in `workdir` and uploads its files to the hub; returns a text that says what was done.

    out: a folder that gets the same files; None writes no local copy. step: the checkpoint whose rows are exported;
    None means the newest rows. onetrainer: also exports for OneTrainer.
    Raises ValueError or OSError, with a message of one line, if the run cannot be read or its files cannot be sent.
    """
    if push.dry_run and out is None:
        raise ValueError("--dry_run writes the files that would be sent: give a folder for them with --out")
    if out is not None and files.is_remote(out):
        raise ValueError(f"{out}: the hub's library can only send from local folders, so give one with --out")
    if out is not None and (out / CARD).is_file() and card.TAG not in (out / CARD).read_text():
        raise ValueError(f"{out / CARD} is not a card of ours and would be replaced: give another --out")
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
    """Writes the card for the files `names` into the folder `place`, and the run's newest preview, if any.

    Returns the names of the written files.
    """
    picture, drawn = preview(workdir, run.step), ""
    if picture:
        drawn = _prompts(picture)
        files.write(place / PICTURE, picture.read_bytes())
    origin: dict[str, Any] = {}
    if (workdir / folder.CONFIG).is_file():  # before version 0.2, only the parent folder had this file
        _, origin = folder.read_settings(workdir)
    shown = {"picture": PICTURE if picture else "", "drawn": drawn}
    files.write(place / CARD, card.card(run, origin, push.repository, names, license=push.license, **shown))
    return [CARD, *([PICTURE] if picture else [])]


def preview(workdir: epath.Path, step: int) -> epath.Path | None:
    """Returns the path of a run's newest preview up to a step; None if there is no preview."""
    paths = folder.previews(workdir)
    shown = [number for number in paths if number <= step]
    return paths[max(shown)] if shown else None


def _prompts(picture: epath.Path) -> str:
    """Returns the prompts that a preview's file holds; "" if an earlier version wrote it without prompts."""
    from PIL import Image

    try:
        with picture.open("rb") as file, Image.open(file) as image:
            return getattr(image, "text", {}).get("prompts", "")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of these for damaged files
        raise ValueError(f"{picture} is damaged: delete it, and the preview before it will be used") from error
