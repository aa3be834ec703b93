"""metrics.jsonl: a record for each training step, one a line."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from reversion_jax.runtime import files
from reversion_jax.runtime.errors import warn

NAME = "metrics.jsonl"


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl. A damaged line is left out with a warning; a last one cut short, without."""
    records, damaged = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line's end was never finished
        try:
            record = files.from_json(line)
            if not isinstance(record.get("step"), int):
                raise ValueError("no step")
            records.append(record)
        except (ValueError, AttributeError):
            damaged.append(number)
    if damaged:
        warn(f"{path}: left out what is damaged, line {', '.join(map(str, damaged[:10]))}{' …' * (len(damaged) > 10)}")
    return records


def append(path: epath.Path, records: Sequence[dict[str, Any]]) -> None:
    """Adds records."""
    files.append(path, "".join(json.dumps(record) + "\n" for record in records))


def cut(path: epath.Path, last: int) -> None:
    """Drops the records of steps beyond the last one, which will be done again; makes the file if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [record for record in read(path) if record["step"] <= last] if path.exists() else []
    files.write(path, "".join(json.dumps(record) + "\n" for record in kept))
