"""Records when the parts of a command's start begin and end, so that a slow start can be explained."""

import contextlib
import json
import time
from collections.abc import Iterator

from etils import epath

from reversion_jax.runtime import files


class Timeline:
    """The parts of a start, with their times in seconds since the timeline was made. Parts may run in threads."""

    NAME = "startup.json"

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self._parts: dict[str, tuple[float, float]] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the part `name`, which is what runs in this context, when it ends."""
        began = time.perf_counter()
        yield
        self.add(name, began)

    def add(self, name: str, began: float) -> None:
        """Adds the part `name`, which began at the time `began` of `time.perf_counter` and ends now."""
        self._parts[name] = began - self._zero, time.perf_counter() - self._zero

    def write(self, path: epath.Path) -> None:
        """Writes a JSON object {name: [began, ended]}. Parts that have not ended are not in it."""
        parts = sorted(self._parts.items(), key=lambda item: item[1])
        files.write(path, json.dumps({name: [round(at, 3) for at in times] for name, times in parts}, indent=1) + "\n")
