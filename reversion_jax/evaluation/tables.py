"""An evaluation's figures as tables: methods by relations, with intervals and the seeds behind each figure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reversion_jax.evaluation.intervals import Interval, bootstrap

METRICS = ("relation", "entities", "both", "fused", "leaked")
_HEADINGS = ("relation right", "both entities right", "all right", "fused", "leaked")


# The directions of a method's prompts, and what each adds to the method's name.
DIRECTIONS = {"direct": "", "inverse": ", turned round"}


class Cell(NamedTuple):
    """What was seen in the pictures of one relation, method, seed and direction: bool [prompts] each."""

    relation: np.ndarray
    entities: np.ndarray
    fused: np.ndarray
    leaked: np.ndarray

    def metric(self, name: str) -> np.ndarray:
        return self.relation & self.entities if name == "both" else getattr(self, name)


Cells = Mapping[tuple[str, str, str], Sequence[Cell]]  # (relation, method, direction) -> a cell for each seed


def values(cells: Cells, relations: Sequence[str], method: str, direction: str, metric: str) -> np.ndarray | None:
    """A metric of a method over the relations that have such cells: float [relations, seeds, prompts], or None."""
    found = [cells[relation, method, direction] for relation in relations if (relation, method, direction) in cells]
    if not found:
        return None
    return np.array([[cell.metric(metric) for cell in seeds] for seeds in found], np.float64)


def summary(cells: Cells, groups: Mapping[str, Sequence[str]], methods: Sequence[str]) -> list[dict]:
    """Every figure: a record of group, method, direction, metric, mean, low, high, relations, seeds, prompts."""
    records = []
    for group, relations in groups.items():
        for method in methods:
            for direction in DIRECTIONS:
                for metric in METRICS:
                    found = values(cells, relations, method, direction, metric)
                    if found is None:
                        continue
                    about = {"group": group, "method": method, "direction": direction, "metric": metric}
                    shape = dict(zip(("relations", "seeds", "prompts"), found.shape, strict=True))
                    records.append(about | bootstrap(found)._asdict() | shape)
    return records


def markdown(records: Sequence[Mapping], group: str, methods: Sequence[str]) -> str:
    """A table of a group: a row for each of the methods and direction, shares in percent with their intervals."""
    rows: dict[tuple[str, str], dict[str, Mapping]] = {}
    for record in records:
        if record["group"] == group and record["method"] in methods:
            rows.setdefault((record["method"], record["direction"]), {})[record["metric"]] = record
    any_record = next(iter(next(iter(rows.values())).values()))
    lines = [
        f"**{group}**, {any_record['prompts']} prompts a cell",
        "",
        f"| method | relations | seeds | {' | '.join(_HEADINGS)} |",
        f"|---|---|---|{'---|' * len(_HEADINGS)}",
    ]
    for (method, direction), found in rows.items():
        name = method + DIRECTIONS[direction]
        shares = " | ".join(percent(Interval(*(found[metric][key] for key in Interval._fields))) for metric in METRICS)
        lines.append(f"| {name} | {found['both']['relations']} | {found['both']['seeds']} | {shares} |")
    return "\n".join(lines) + "\n"


def by_relation(cells: Cells, relations: Sequence[str], methods: Sequence[str], metric: str) -> str:
    """A row for each relation, a column for each method: one metric, direct prompts."""
    lines = [f"| {_HEADINGS[METRICS.index(metric)]} | {' | '.join(methods)} |", f"|---|{'---|' * len(methods)}"]
    for relation in relations:
        found = [values(cells, [relation], method, "direct", metric) for method in methods]
        shares = " | ".join("" if value is None else percent(bootstrap(value)) for value in found)
        lines.append(f"| {relation} | {shares} |")
    return "\n".join(lines) + "\n"


def differences(cells: Cells, relations: Sequence[str], methods: Sequence[str], baseline: str) -> str:
    """Each method, and the baseline said otherwise, minus the baseline's direct prompts: percentage points.

    Paired by relation, seed and prompt.
    """
    lines = [f"| minus {baseline} | {' | '.join(_HEADINGS)} |", f"|---|{'---|' * len(_HEADINGS)}"]
    others = [(method, "direct") for method in methods if method != baseline]
    for method, direction in [*others, *((baseline, direction) for direction in DIRECTIONS if direction != "direct")]:
        where = [r for r in relations if (r, method, direction) in cells]
        shares = []
        for metric in METRICS:
            mine = values(cells, where, method, direction, metric)
            theirs = values(cells, where, baseline, "direct", metric)
            if mine is None or theirs is None:
                break
            shares.append(percent(bootstrap(mine - theirs), signed=True))
        else:
            lines.append(f"| {method}{DIRECTIONS[direction]} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def percent(interval: Interval, *, signed: bool = False) -> str:
    """Such as "72 [65, 78]"; with a sign, such as "+3 [-1, 7]"."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:{'+' if signed else ''}.0f} [{low:.0f}, {high:.0f}]"
