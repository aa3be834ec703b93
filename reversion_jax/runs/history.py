"""Reads and writes metrics.jsonl: a line with a JSON object for each training step."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from reversion_jax.runtime import files
from reversion_jax.runtime.errors import warn

NAME = "metrics.jsonl"


def read(path: epath.Path) -> list[dict[str, Any]]:
    """Reads a metrics.jsonl. Skips damaged lines with a warning, and an unfinished last line without a warning."""
    records, damaged = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # the text after the last line break is an unfinished line
        try:
            record = files.from_json(line)
            if not isinstance(record.get("step"), int):
                raise ValueError("no step")
            records.append(record)
        except (ValueError, AttributeError):
            damaged.append(number)
    if damaged:
        warn(f"{path}: skipped damaged lines: {', '.join(map(str, damaged[:10]))}{' …' * (len(damaged) > 10)}")
    return records


def append(path: epath.Path, records: Sequence[dict[str, Any]]) -> None:
    """Appends records to a metrics.jsonl."""
    files.append(path, "".join(json.dumps(record) + "\n" for record in records))


def cut(path: epath.Path, last: int) -> None:
    """Drops the records of steps after `last`, which training will repeat. Creates the file if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [record for record in read(path) if record["step"] <= last] if path.exists() else []
    files.write(path, "".join(json.dumps(record) + "\n" for record in kept))
