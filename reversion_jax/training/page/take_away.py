"""Packs a run's learned words as files for other tools, for download in the browser."""

import tempfile
import zipfile
from pathlib import Path

from etils import epath

from reversion_jax.runs import export, folder
from reversion_jax.training.page.place import Place

_HOW = "how_to_use.txt"


def pack(place: Place, key: str) -> str | None:
    """Writes a .zip with the files that `export` writes for a run, and a text that says how each tool uses these files.

    Returns the path of the .zip, or None if the key means an embedding file, which the user already has. Raises
    ValueError or OSError if the run cannot be read.
    """
    if not place.is_run(key):
        return None
    workdir, _ = place.word(key)
    run = folder.read(workdir or "")
    made = Path(tempfile.mkdtemp(prefix="words-"))
    written = export.write(run, epath.Path(made / "files"))
    archive = made / f"{run.settings.relation}.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in written:
            zipped.write(path, path.name)
        zipped.writestr(_HOW, export.describe(run, [epath.Path(path.name) for path in written]) + "\n")
    return str(archive)
