"""A run's words as files for other tools, packed for the browser."""

import tempfile
import zipfile
from pathlib import Path

from etils import epath

from reversion_jax.runs import export, folder
from reversion_jax.training.page.place import Place

_HOW = "how_to_use.txt"


def pack(place: Place, key: str) -> str | None:
    """A .zip of the files that `export` writes for a run, with a text on how each tool uses them.

    None for a key that means no run: an embedding file is a person's own already. ValueError, OSError.
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
