"""The folder that the page may use, with its runs, embedding files and models. The page cannot reach other files.

A file's name from the page may have only letters, digits, "_", "." and "-". A path that leaves the folder by a symbolic
link is not used.
"""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from etils import epath

from reversion_jax import config
from reversion_jax.config import Settings
from reversion_jax.runs import folder
from reversion_jax.runtime import files
from reversion_jax.weights import embeddings, hub

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_EMBEDDINGS = "embeddings"  # the folder of uploaded embedding files
_RUN, _FILE = "run:", "file:"  # prefixes of a learned word's key


class Listed(NamedTuple):
    """An entry of the list of runs: a training folder with one run, or with several runs that train together."""

    name: str
    settings: Settings
    step: int  # the steps trained so far
    runs: tuple[str, ...]  # the runs' names: the folder's name or, if there are several runs, folder/run

    def wanted(self) -> int:
        """Returns the total of steps to suggest for resuming: the run's own or, for a finished run, twice its steps."""
        return self.settings.steps if self.step < self.settings.steps else 2 * self.step

    def describe(self) -> str:
        """Returns the entry's text in the list of runs."""
        s = self.settings
        several = f" · {len(self.runs)} runs" if len(self.runs) > 1 else ""
        state = f"finished, {s.steps:,} steps" if self.step >= s.steps else f"step {self.step:,} of {s.steps:,}"
        return f"{self.name} · {s.method.replace('_', ' ')} · {Path(s.model).name}{several} · {state}"


class Place:
    """The folder that the page may use. Methods that take a name raise ValueError if the name is not valid."""

    def __init__(self, folder: str | Path):
        if files.is_remote(folder):
            raise ValueError(f"--folder={folder}: the app needs a folder of this machine")
        self.folder = Path(folder).expanduser().resolve()

    def path(self, name: str) -> Path:
        """Returns the path of "name" or "name/name" in the folder; it need not exist."""
        parts = name.split("/")
        if len(parts) > 2 or not all(map(_NAME.fullmatch, parts)):
            raise ValueError(f"{name!r} is not a name in this folder")
        return self._inside(self.folder.joinpath(*parts))

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder)

    def _inside(self, path: Path) -> Path:
        """Returns the path unchanged. Raises ValueError if the path leads out of the folder."""
        if not self._is_inside(path):
            raise ValueError(f"{path.name} is a link out of the folder, so it is not used")
        return path

    def run(self, name: str) -> epath.Path:
        """Returns the folder of an existing run."""
        path = self.path(name)
        if not self._inside(path / folder.CONFIG).is_file():
            raise ValueError(f"there is no run named {name} in this folder")
        return epath.Path(path)

    def free(self, wish: str) -> str:
        """Returns a name for a new run: `wish` in letters, digits and _, plus a number if the name is taken."""
        name = re.sub(r"[^A-Za-z0-9]+", "_", wish).strip("_")[:60] or "relation"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        return next(free for free in names if not (self.folder / free).exists())

    def runs(self) -> list[Listed]:
        """Returns the training folders, the newest first. A folder that cannot be read is left out."""
        found = []
        for path in self.folder.glob(f"*/{folder.CONFIG}"):
            try:
                self._inside(path)
                found.append((path.stat().st_mtime, self._listed(self.path(path.parent.name))))
            except (ValueError, OSError):
                continue
        return [listed for _, listed in sorted(found, key=lambda pair: -pair[0])]

    def _listed(self, path: Path) -> Listed:
        settings, _ = folder.read_settings(epath.Path(path))
        names = list(config.each_run(settings))
        first = path / names[0]
        try:
            step = folder.read_rows(epath.Path(first / folder.NEWEST)).step
        except (ValueError, OSError):
            step = 0
        runs = tuple(f"{path.name}/{name}" if name else path.name for name in names)
        return Listed(path.name, settings, step, runs)

    def first_run(self, name: str) -> Path:
        """Returns the folder of the run to show for an entry of the list: the first run, if there are several."""
        listed = next((listed for listed in self.runs() if listed.name == name), None)
        return self.path(listed.runs[0] if listed else name)

    def words(self) -> list[tuple[str, str]]:
        """Returns all learned words as (label, key): every run that has learned rows, then every embedding file."""
        runs = [(name, _RUN + name) for listed in self.runs() for name in listed.runs if self._has_rows(name)]
        kept = sorted((self.folder / _EMBEDDINGS).glob("*"))
        names = [path.name for path in kept if path.suffix in embeddings.SUFFIXES and self._is_inside(path)]
        uploaded = [(name, _FILE + name) for name in names]
        return [*runs, *uploaded]

    def _has_rows(self, name: str) -> bool:
        return (self.folder / name / folder.NEWEST).is_file()

    def is_run(self, key: str) -> bool:
        """Returns whether a key from `words` means a run, whose settings name a model, not an embedding file."""
        return key.startswith(_RUN)

    def word(self, key: str) -> tuple[epath.Path | None, list[str]]:
        """Returns a run's folder and a list of embedding files for a key from `words`.

        For a run, the list is empty. For an embedding file, the folder is None. For the key "", which means the model
        without a learned word, the folder is None and the list is empty.
        """
        if key.startswith(_FILE):
            path = self.path(f"{_EMBEDDINGS}/{key.removeprefix(_FILE)}")
            if not path.is_file():
                raise ValueError(f"{path.name} is no longer in the folder")
            return None, [str(path)]
        return (self.run(key.removeprefix(_RUN)) if key else None), []

    def keep_embedding(self, uploaded: Path) -> str:
        """Copies an uploaded embedding file into the folder; returns its key.

        Raises ValueError if the file cannot be read.
        """
        try:
            embeddings.read(uploaded)
        except ValueError as error:
            raise ValueError(str(error).replace(str(uploaded), uploaded.name)) from error
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", uploaded.stem).strip("._-")[:60] or "embedding"
        name = f"{stem}{uploaded.suffix.lower()}"
        path = self.path(f"{_EMBEDDINGS}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, uploaded.read_bytes())
        return _FILE + name

    def models(self) -> list[str]:
        """Returns names: the miniature model, Stable Diffusion 1.5, and the folder's models, such as DreamBooth's."""
        inside = [path.parent for depth in ("*", "*/*") for path in self.folder.glob(f"{depth}/model_index.json")]
        own = sorted(filter(self._is_inside, inside))
        return [config.MINIATURE, config.SD15, *(path.relative_to(self.folder).as_posix() for path in own)]

    def model(self, name: str) -> str:
        """Returns the library's name for a model that the page names: one of `models`, or a Hugging Face hub id."""
        name = name.strip()
        if name in (config.MINIATURE, config.SD15):
            return name
        if name in self.models():
            return str(self.path(name))
        # A hub id looks like a relative path. If that path exists, the library would read it, even outside this folder.
        if hub.parse_id(name) and not Path(name).exists():
            return name
        raise ValueError(f"model {name!r} is neither in the list nor an id on the Hugging Face hub such as owner/name")


def newest_preview(run: Path) -> Path | None:
    """Returns the newest preview of a run; None if it has none."""
    return max((run / "previews").glob("step_*.png"), default=None)


def whole(value: object, low: int, high: int, what: str) -> int:
    """Checks that a value from the page is a whole number from `low` to `high`, and returns it.

    what: the value's name in messages. Raises ValueError if the value is not such a number.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else low - 1
    if number != number // 1 or not low <= number <= high:
        raise ValueError(f"{what} must be a whole number from {low:,} to {high:,}")
    return int(number)
