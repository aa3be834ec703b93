"""Votes that people saved in the page, and what they make: average user rankings (Inv-ReVersion, Tables 1 and 2)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reversion_jax.evaluation.user_study.page import KEY
from reversion_jax.runtime import files

FORMAT = "user study votes 1"  # as page.js writes it
CRITERIA = ("entity", "relation")
OVERALL = "all"


class Ranking(NamedTuple):
    """Average user rankings, 1 worst … M best, float [rows, criteria, methods], with the ends of their intervals."""

    rows: tuple[str, ...]  # relations, then OVERALL
    methods: tuple[str, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    voters: int


def read_key(folder: Path) -> dict:
    """The key.json of a study; FileNotFoundError, ValueError."""
    path = folder / KEY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: --workdir names the folder that the page was written to")
    try:
        key = files.from_json(path.read_text(encoding="utf-8"))
        whole = all(sorted(one["methods"]) == sorted(key["methods"]) for one in key["sets"]) and key["study"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: not the key of a study, as it was written beside the page: restore it")
    return key


def read_votes(folder: Path, key: dict) -> np.ndarray:
    """The ranks int [voters, sets, criteria, methods] in all .json files of a folder, methods in the key's order.

    ValueError, naming the file, for what is no complete vote on this study, and for a voter who is there twice.
    """
    given = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not given:
        raise ValueError(f"{folder}: no votes in it: put the votes-….json there that voters saved")
    voters: dict[str, Path] = {}
    ranks = []
    for file in given:
        try:
            votes = files.from_json(file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{file}: not readable as JSON ({error}): ask for the file once more") from error
        if not isinstance(votes, dict) or votes.get("format") != FORMAT:
            raise ValueError(f"{file}: no votes as the page saves them: take it out of the folder")
        if votes.get("study") != key["study"]:
            raise ValueError(
                f"{file}: votes on another page ({votes.get('study')!r}, not {key['study']!r}): take it out"
            )
        voter = votes.get("voter")
        if not isinstance(voter, str) or not re.fullmatch("[0-9a-f]{16}", voter):
            raise ValueError(f"{file}: voter {voter!r} is none that the page makes: ask for the file once more")
        if voter in voters:
            raise ValueError(f"{file}: from the same voter as {voters[voter].name}: keep the newer one")
        voters[voter] = file
        ranks.append(_ranks(votes.get("votes"), key, file))
    return np.array(ranks)


def average_user_ranking(ranks: np.ndarray, key: dict, *, resamples: int = 10_000, seed: int = 0) -> Ranking:
    """The mean rank of each method for each relation and over all sets, with 95% intervals.

    `ranks` is [voters, sets, criteria, methods]. Percentile bootstrap over voters, who are drawn anew with
    replacement; the sets are taken as they are.
    """
    from scipy import stats  # takes over a second, which writing the page need not wait for

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
    """The numbers behind the table, by row, criterion and method."""
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in ranking._asdict().items()
    }
    return json.dumps({"criteria": CRITERIA, **values}, indent=1) + "\n"


def table(ranking: Ranking) -> str:
    """Markdown: a table for each criterion, a row for each relation, a column for each method."""
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
    """One voter's ranks [sets, criteria, methods]."""
    if not isinstance(votes, list) or len(votes) != len(key["sets"]):
        raise ValueError(f"{file}: want votes on {len(key['sets'])} sets: ask for the file once more")
    letters = [chr(ord("A") + n) for n in range(len(key["methods"]))]
    ranks: list[list[list[int]]] = []
    for number, (vote, one) in enumerate(zip(votes, key["sets"], strict=True), start=1):
        ranks.append([])
        for criterion in CRITERIA:
            order = vote.get(criterion) if isinstance(vote, dict) else None
            if not isinstance(order, list) or sorted(map(str, order)) != letters:
                raise ValueError(
                    f"{file}, set {number}, {criterion}: want {', '.join(letters)}, each once, from worst to best, "
                    f"not {order!r}: ask for the file once more"
                )
            rank = {one["methods"][letters.index(letter)]: place for place, letter in enumerate(order, start=1)}
            ranks[-1].append([rank[method] for method in key["methods"]])
    return ranks


def _people(voters: int) -> str:
    return "one voter, so without intervals" if voters == 1 else f"{voters} voters, with 95% bootstrap intervals"


def _cell(mean: float, low: float, high: float, voters: int) -> str:
    return f"{mean:.2f}" if voters == 1 else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _line(cells: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = ["-" if cell == "---" else " " for cell in cells]
    return "| " + " | ".join(c.ljust(w, p) for c, w, p in zip(cells, widths, pad, strict=True)) + " |"
