"""Reads the votes that people saved in the page, and computes average user rankings (Inv-ReVersion, Tables 1 and 2)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reversion_jax.evaluation.user_study.page import KEY
from reversion_jax.runtime import files

FORMAT = "user study votes 1"  # the value that the page writes into each file of votes
CRITERIA = ("entity", "relation")
OVERALL = "all"


class Ranking(NamedTuple):
    """Average user rankings from 1 (worst) to the number of methods (best), with the bounds of their intervals."""

    rows: tuple[str, ...]  # relations, then OVERALL
    methods: tuple[str, ...]
    mean: np.ndarray  # float [rows, criteria, methods]
    low: np.ndarray  # [rows, criteria, methods]
    high: np.ndarray  # [rows, criteria, methods]
    voters: int  # number of voters


def read_key(folder: Path) -> dict:
    """Reads the key.json of a study. Raises FileNotFoundError or ValueError if key.json is missing or damaged."""
    path = folder / KEY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: give --workdir the folder that has the page")
    try:
        key = files.from_json(path.read_text(encoding="utf-8"))
        whole = all(sorted(one["methods"]) == sorted(key["methods"]) for one in key["sets"]) and key["study"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: not the key of a study: restore the file that was written with the page")
    return key


def read_votes(folder: Path, key: dict) -> np.ndarray:
    """Reads the ranks in all .json files of a folder: int [voters, sets, criteria, methods].

    The methods are in the key's order. Raises ValueError, naming the file, if a file is not a complete vote on this
    study, or if a voter has two files.
    """
    given = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not given:
        raise ValueError(f"{folder}: no votes in it: put the votes-….json files of the voters there")
    voters: dict[str, Path] = {}
    ranks = []
    for file in given:
        try:
            votes = files.from_json(file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{file}: not readable as JSON ({error}): ask the voter for it again") from error
        if not isinstance(votes, dict) or votes.get("format") != FORMAT:
            raise ValueError(f"{file}: not a file of votes from the page: take it out of the folder")
        if votes.get("study") != key["study"]:
            raise ValueError(
                f"{file}: votes on another page ({votes.get('study')!r}, not {key['study']!r}): take the file out"
            )
        voter = votes.get("voter")
        if not isinstance(voter, str) or not re.fullmatch("[0-9a-f]{16}", voter):
            raise ValueError(f"{file}: {voter!r} is not a voter's id from the page: ask the voter for the file again")
        if voter in voters:
            raise ValueError(f"{file} is from the same voter as {voters[voter].name}: keep only the newer file")
        voters[voter] = file
        ranks.append(_ranks(votes.get("votes"), key, file))
    return np.array(ranks)


def average_user_ranking(ranks: np.ndarray, key: dict, *, resamples: int = 10_000, seed: int = 0) -> Ranking:
    """Returns each method's mean rank for each relation and over all sets, with 95% intervals.

    ranks: int [voters, sets, criteria, methods]. The intervals come from a percentile bootstrap: each resample draws
    voters with replacement, and keeps all sets.
    """
    from scipy import stats  # imported here because it takes over a second, and writing the page does not need it

    relations = [one["relation"] for one in key["sets"]]
    rows = (*sorted(set(relations)), OVERALL)
    member = np.array([[row in (relation, OVERALL) for relation in relations] for row in rows], float)
    by_voter = np.einsum("rs,vscm->vrcm", member / member.sum(1, keepdims=True), ranks)
    mean = by_voter.mean(axis=0)
    if len(ranks) == 1:
        return Ranking(rows, tuple(key["methods"]), mean, mean, mean, 1)
    low, high = stats.bootstrap(
        (by_voter,), np.mean, n_resamples=resamples, batch=1000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Ranking(rows, tuple(key["methods"]), mean, low, high, len(ranks))


def to_json(ranking: Ranking) -> str:
    """Returns the numbers of the table as JSON, by row, criterion and method."""
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in ranking._asdict().items()
    }
    return json.dumps({"criteria": CRITERIA, **values}, indent=1) + "\n"


def table(ranking: Ranking) -> str:
    """Returns a table for each criterion, in Markdown: a row for each relation and a column for each method."""
    parts = [f"Average user ranking, 1 (worst) to {len(ranking.methods)} (best), by {_people(ranking.voters)}."]
    for c, criterion in enumerate(CRITERIA):
        head = [f"{criterion} accuracy", *ranking.methods]
        lines = [head, ["---"] * len(head)]
        for r, row in enumerate(ranking.rows):
            cells = zip(ranking.mean[r, c], ranking.low[r, c], ranking.high[r, c], strict=True)
            lines.append([row, *(_cell(mean, low, high, ranking.voters) for mean, low, high in cells)])
        parts.append("\n".join(_line(line, lines) for line in lines))
    return "\n\n".join(parts) + "\n"


def _ranks(votes: object, key: dict, file: Path) -> list[list[list[int]]]:
    """Returns one voter's ranks [sets, criteria, methods]. Raises ValueError if the votes are not complete."""
    if not isinstance(votes, list) or len(votes) != len(key["sets"]):
        raise ValueError(f"{file}: does not have votes on {len(key['sets'])} sets: ask the voter for it again")
    letters = [chr(ord("A") + n) for n in range(len(key["methods"]))]
    ranks: list[list[list[int]]] = []
    for number, (vote, one) in enumerate(zip(votes, key["sets"], strict=True), start=1):
        ranks.append([])
        for criterion in CRITERIA:
            order = vote.get(criterion) if isinstance(vote, dict) else None
            if not isinstance(order, list) or sorted(map(str, order)) != letters:
                raise ValueError(
                    f"{file}, set {number}, {criterion}: must be {', '.join(letters)}, each once, from worst to best, "
                    f"not {order!r}: ask the voter for the file again"
                )
            rank = {one["methods"][letters.index(letter)]: place for place, letter in enumerate(order, start=1)}
            ranks[-1].append([rank[method] for method in key["methods"]])
    return ranks


def _people(voters: int) -> str:
    return "one voter, so without intervals" if voters == 1 else f"{voters} voters, with 95% bootstrap intervals"


def _cell(mean: float, low: float, high: float, voters: int) -> str:
    return f"{mean:.2f}" if voters == 1 else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _line(cells: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Formats one line of a Markdown table, with columns as wide as their widest cell in `lines`."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = ["-" if cell == "---" else " " for cell in cells]
    return "| " + " | ".join(c.ljust(w, p) for c, w, p in zip(cells, widths, pad, strict=True)) + " |"
