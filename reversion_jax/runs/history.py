"""metrics.jsonl: a record for each training step, one a line."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from reversion_jax.runtime import files

NAME = "metrics.jsonl"


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a line cut short by a crash ends them."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def append(path: epath.Path, records: Sequence[dict[str, Any]]) -> None:
    """Adds records."""
    files.append(path, "".join(json.dumps(record) + "\n" for record in records))


def cut(path: epath.Path, last: int) -> None:
    """Drops the records of steps beyond the last one, which will be done again; makes the file if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [record for record in read(path) if record["step"] <= last] if path.exists() else []
    files.write(path, "".join(json.dumps(record) + "\n" for record in kept))
