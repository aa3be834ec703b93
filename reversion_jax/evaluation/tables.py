"""Makes tables of an evaluation's scores: methods and relations, with intervals and the numbers of seeds."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reversion_jax.evaluation.intervals import Interval, bootstrap


class Metric(NamedTuple):
    """A metric: a column of the tables."""

    name: str
    heading: str
    percent: bool = True  # True: a share of pictures, shown in percent; False: a score, shown with three decimals

    def show(self, interval: Interval, *, signed: bool = False) -> str:
        """Formats a value, such as "72 [65, 78]" or "0.291 [0.288, 0.294]"; if `signed`, such as "+3 [-1, 7]"."""
        factor, digits = (100, 0) if self.percent else (1, 3)
        mean, low, high = (factor * value for value in interval)
        return f"{mean:{'+' if signed else ''}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


# For each direction of a method's prompts, the suffix of the method's name in the tables.
DIRECTIONS = {"direct": "", "inverse": ", turned round"}

Which = tuple[str, str, str]  # relation, method, direction
# Maps `Which` -> seed of the training (None for plain words) -> metric -> a number for each prompt.
Cells = Mapping[Which, Mapping[int | None, Mapping[str, Sequence[float]]]]


def values(cells: Cells, which: Sequence[Which], metric: str) -> np.ndarray | None:
    """Returns a metric's values in the cells `which`, one cell per relation: float [relations, seeds, prompts].

    Leaves out relations without the metric, and seeds that another relation lacks. Returns None if no values are left.
    """
    having = [seeds for one in which if (seeds := _having(cells, one, metric))]
    common = [seed for seed in having[0] if all(seed in seeds for seeds in having)] if having else []
    return np.array([[seeds[seed][metric] for seed in common] for seeds in having], np.float64) if common else None


def difference(cells: Cells, mine: Sequence[Which], theirs: Sequence[Which], metric: str) -> np.ndarray | None:
    """Returns a metric of the cells `mine` minus the same metric of `theirs`: float [relations, seeds, prompts].

    The values are paired by relation, seed and prompt. Plain words have no seed, so their values are paired with each
    seed of the other cells. Returns None if there are no pairs.
    """
    kept: dict[Which, dict] = {}
    pairs = []
    for a, b in zip(mine, theirs, strict=True):
        of_a, of_b = (_having(cells, one, metric) for one in (a, b))
        if None not in of_a and None not in of_b:
            of_a, of_b = ({seed: own[seed] for seed in of_a.keys() & of_b.keys()} for own in (of_a, of_b))
        if of_a and of_b:
            kept |= {a: of_a, b: of_b}
            pairs.append((a, b))
    first, second = (values(kept, [pair[side] for pair in pairs], metric) for side in (0, 1))
    return None if first is None or second is None else first - second


def _having(cells: Cells, which: Which, metric: str) -> dict[int | None, Mapping[str, Sequence[float]]]:
    """Returns the scores of those seeds that have the metric, by seed."""
    return {seed: cell for seed, cell in cells.get(which, {}).items() if metric in cell}


def summary(
    cells: Cells, groups: Mapping[str, Sequence[str]], methods: Sequence[str], metrics: Sequence[Metric]
) -> list[dict]:
    """Returns all numbers of the tables, as records.

    Each record has group, method, direction, metric, mean, low, high, and the numbers of relations, seeds and prompts.
    """
    records = []
    for group, relations in groups.items():
        for method in methods:
            for direction in DIRECTIONS:
                for metric in metrics:
                    found = values(cells, [(r, method, direction) for r in relations], metric.name)
                    if found is None:
                        continue
                    about = {"group": group, "method": method, "direction": direction, "metric": metric.name}
                    shape = dict(zip(("relations", "seeds", "prompts"), found.shape, strict=True))
                    records.append(about | bootstrap(found)._asdict() | shape)
    return records


def markdown(records: Sequence[Mapping], group: str, methods: Sequence[str], metrics: Sequence[Metric]) -> str:
    """Returns a group's table in Markdown: a row for each method and direction, with intervals; "" for no rows."""
    rows: dict[tuple[str, str], dict[str, Mapping]] = {}
    for record in records:
        if record["group"] == group and record["method"] in methods:
            rows.setdefault((record["method"], record["direction"]), {})[record["metric"]] = record
    if not rows:
        return ""
    any_record = next(iter(next(iter(rows.values())).values()))
    shown = [metric for metric in metrics if any(metric.name in found for found in rows.values())]
    lines = [
        f"**{group}**, {any_record['prompts']} prompts a cell",
        "",
        f"| method | relations | seeds | {' | '.join(metric.heading for metric in shown)} |",
        f"|---|---|---|{'---|' * len(shown)}",
    ]
    for (method, direction), found in rows.items():
        intervals = {name: Interval(*(record[key] for key in Interval._fields)) for name, record in found.items()}
        columns = [metric.show(intervals[metric.name]) if metric.name in intervals else "" for metric in shown]
        most = max(found.values(), key=lambda record: record["relations"])
        about = f"{method}{DIRECTIONS[direction]} | {most['relations']} | {most['seeds']}"
        lines.append(f"| {about} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def by_relation(cells: Cells, relations: Sequence[str], methods: Sequence[str], metric: Metric) -> str:
    """Returns a table of one metric, for direct prompts: a row for each relation and a column for each method.

    The papers on these methods have tables of this form.
    """
    lines = [f"| {metric.heading} | {' | '.join(methods)} |", f"|---|{'---|' * len(methods)}"]
    for relation in relations:
        found = [values(cells, [(relation, method, "direct")], metric.name) for method in methods]
        shown = " | ".join("" if value is None else metric.show(bootstrap(value)) for value in found)
        lines.append(f"| {relation} | {shown} |")
    return "\n".join(lines) + "\n"


def differences(
    cells: Cells, relations: Sequence[str], methods: Sequence[str], baseline: str, metrics: Sequence[Metric]
) -> str:
    """Returns a table of differences from the baseline's direct prompts, with shares in percentage points.

    The rows are the direct prompts of each other method, and the baseline's inverse prompts.
    """
    lines = [
        f"| minus {baseline} | {' | '.join(metric.heading for metric in metrics)} |",
        f"|---|{'---|' * len(metrics)}",
    ]
    others = [(method, "direct") for method in methods if method != baseline] + [(baseline, "inverse")]
    for method, direction in others:
        columns = []
        for metric in metrics:
            mine, theirs = ([(r, *side) for r in relations] for side in ((method, direction), (baseline, "direct")))
            found = difference(cells, mine, theirs, metric.name)
            columns.append("" if found is None else metric.show(bootstrap(found), signed=True))
        if any(columns):
            lines.append(f"| {method}{DIRECTIONS[direction]} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def as_csv(records: Sequence[Mapping]) -> str:
    """Returns the records of `summary` as comma-separated values."""
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return text.getvalue()
