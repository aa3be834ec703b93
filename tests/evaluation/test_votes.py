import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_evaluation
from test_commands import run

from reversion_jax.evaluation.user_study import study, votes

KEY = {
    "study": "0123456789abcdef",
    "methods": ["m", "n", "o"],
    "sets": [
        {"relation": "inside", "prompt": "a <R> b", "seed": 0, "methods": ["n", "o", "m"]},
        {"relation": "hug", "prompt": "c <R> d", "seed": 0, "methods": ["m", "n", "o"]},
        {"relation": "inside", "prompt": "e <R> f", "seed": 0, "methods": ["o", "n", "m"]},
    ],
}
ORDERS = [[["A", "B", "C"], ["C", "B", "A"]], [["B", "A", "C"], ["A", "B", "C"]], [["C", "A", "B"], ["A", "C", "B"]]]


def _vote(voter: int, orders=ORDERS) -> dict:
    made = [dict(zip(votes.CRITERIA, pair, strict=True)) for pair in orders]
    return {"format": votes.FORMAT, "study": KEY["study"], "voter": f"{voter:016x}", "votes": made}


def _write(folder: Path, *ballots: dict) -> Path:
    folder.mkdir(exist_ok=True)
    for n, ballot in enumerate(ballots):
        (folder / f"votes-{n}.json").write_text(json.dumps(ballot))
    return folder


def test_average_ranks_equal_a_calculation_by_hand(tmp_path):
    """Two voters rank the pictures of three sets."""
    other = [[["C", "B", "A"], ["C", "B", "A"]], [["A", "B", "C"], ["A", "B", "C"]], [["A", "B", "C"], ["A", "B", "C"]]]
    ranks = votes.read_votes(_write(tmp_path / "votes", _vote(1), _vote(2, other)), KEY)
    # The axes of `ranks` are voters, sets, criteria, and the methods m, n and o.
    assert ranks.tolist() == [
        [[[3, 1, 2], [1, 3, 2]], [[2, 1, 3], [1, 2, 3]], [[1, 3, 2], [2, 3, 1]]],
        [[[1, 3, 2], [1, 3, 2]], [[1, 2, 3], [1, 2, 3]], [[3, 2, 1], [3, 2, 1]]],
    ]
    ranking = votes.average_user_ranking(ranks, KEY)
    assert ranking.rows == ("hug", "inside", "all")
    hug = [[1.5, 1.5, 3], [1, 2, 3]]
    inside = [[8 / 4, 9 / 4, 7 / 4], [7 / 4, 11 / 4, 6 / 4]]
    overall = [[11 / 6, 12 / 6, 13 / 6], [9 / 6, 15 / 6, 12 / 6]]
    np.testing.assert_allclose(ranking.mean, [hug, inside, overall])
    # A resample draws two voters. With probability 1/4 a resample has the first voter twice, and with probability
    # 1/4 the second voter twice.
    np.testing.assert_allclose(ranking.low[0], [[1, 1, 3], [1, 2, 3]])
    np.testing.assert_allclose(ranking.high[0], [[2, 2, 3], [1, 2, 3]])
    np.testing.assert_allclose(ranking.low[2, 0], [5 / 3, 5 / 3, 2])
    np.testing.assert_allclose(ranking.high[2, 0], [2, 7 / 3, 7 / 3])
    shown = votes.table(ranking)
    assert "| hug             | 1.50 [1.00, 2.00] | 1.50 [1.00, 2.00] | 3.00 [3.00, 3.00] |" in shown
    assert "| all               | 1.50 [1.33, 1.67] | 2.50 [2.33, 2.67] | 2.00 [2.00, 2.00] |" in shown
    assert json.loads(votes.to_json(ranking))["mean"][0] == hug


def test_intervals_of_votes_equal_those_of_all_resamples():
    """Five voters have 3125 equally likely resamples, so few that the test computes all resamples."""
    second = np.arange(4) < np.arange(5)[:, None]  # voter v prefers m to n in v of the four sets
    ranks = np.stack([1 + second, 2 - second], axis=-1)[:, :, None]
    key = {"methods": ["m", "n"], "sets": [{"relation": name} for name in ("hug", "hug", "hug", "inside")]}
    ranking = votes.average_user_ranking(ranks, key)
    by_voter = np.stack([ranks[:, :3].mean(1), ranks[:, 3], ranks.mean(1)], axis=1)
    every = by_voter[np.array(list(itertools.product(range(5), repeat=5)))].mean(1)
    low, high = np.quantile(every, [0.025, 0.975], axis=0, method="inverted_cdf")
    np.testing.assert_allclose(ranking.low, low)
    np.testing.assert_allclose(ranking.high, high)
    assert (ranking.low < ranking.mean).all()


def test_votes_of_a_single_voter_have_no_interval(tmp_path):
    ranking = votes.average_user_ranking(votes.read_votes(_write(tmp_path / "votes", _vote(1)), KEY), KEY)
    assert "one voter, so without intervals" in votes.table(ranking)
    assert "[" not in votes.table(ranking)


def _with(change) -> dict:
    ballot = _vote(2)
    change(ballot)
    return ballot


VOTE_FAULTS = [
    (lambda b: b.update(format="votes"), "not a file of votes from the page"),
    (lambda b: b.update(study="f" * 16), "votes on another page ('ffffffffffffffff'"),
    (lambda b: b.pop("voter"), "None is not a voter's id"),
    (lambda b: b.update(voter="me"), "'me' is not a voter's id"),
    (lambda b: b.update(voter=f"{1:016x}"), "from the same voter as votes-0.json"),
    (lambda b: b["votes"].pop(), "does not have votes on 3 sets"),
    (lambda b: b.update(votes=None), "does not have votes on 3 sets"),
    (lambda b: b["votes"][1].pop("relation"), "set 2, relation: must be A, B, C, each once"),
    (lambda b: b["votes"][2].update(entity=["A", "B", None]), "set 3, entity: must be A, B, C"),
    (lambda b: b["votes"][2].update(entity=["A", "B", "B"]), "set 3, entity: must be A, B, C"),
    (lambda b: b["votes"][0].update(entity=["A", "B"]), "set 1, entity: must be A, B, C"),
    (lambda b: b["votes"][0].update(entity="ABC"), "set 1, entity: must be A, B, C"),
    (lambda b: b["votes"].__setitem__(0, ["ABC"]), "set 1, entity: must be A, B, C"),
]


@pytest.mark.parametrize(("change", "says"), VOTE_FAULTS, ids=[says for _, says in VOTE_FAULTS])
def test_an_error_about_votes_names_the_file_and_the_fault(tmp_path, change, says):
    folder = _write(tmp_path / "votes", _vote(1), _with(change))
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        votes.read_votes(folder, KEY)
    assert "votes-1.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_about_an_unreadable_file_of_votes_or_key_names_the_file(tmp_path):
    (tmp_path / "votes-0.json").write_text("{")
    with pytest.raises(ValueError, match=r"votes-0\.json: not readable as JSON"):
        votes.read_votes(tmp_path, KEY)
    (tmp_path / "votes-0.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a file of votes from the page"):
        votes.read_votes(tmp_path, KEY)
    with pytest.raises(ValueError, match="no votes in it"):
        votes.read_votes(tmp_path / "none", KEY)
    with pytest.raises(FileNotFoundError, match="key.json: no such file"):  # noqa: RUF043
        votes.read_key(tmp_path)
    for text in ("{", "[]", '{"study": "a", "methods": ["m"], "sets": [{"methods": ["n"]}]}'):
        (tmp_path / "key.json").write_text(text)
        with pytest.raises(ValueError, match="not the key of a study"):
            votes.read_key(tmp_path)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> Path:
    return tiny_evaluation.write(tmp_path_factory.mktemp("evaluation"))


def test_the_study_command_writes_the_page_and_counts_votes(evaluation, tmp_path):
    workdir = tmp_path / "study"
    place = ["--workdir", str(workdir)]
    done = run("study", "--evaluation", str(evaluation), *place, "--methods", "reversion,inv_reversion")
    assert done.returncode == 0, done.stderr
    assert "8 sets of 2 relations, pictures by reversion, inv_reversion" in done.stdout
    key = votes.read_key(workdir)
    assert key["methods"] == ["reversion", "inv_reversion"]
    # This voter always prefers Inv-ReVersion.
    order = lambda one: ["A", "B"] if one["methods"][1] == "inv_reversion" else ["B", "A"]
    ballot = {
        **_vote(1),
        "study": key["study"],
        "votes": [dict.fromkeys(votes.CRITERIA, order(one)) for one in key["sets"]],
    }
    done = run("study", "--votes", str(_write(tmp_path / "votes", ballot)), *place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (workdir / "aur.md").read_text()
    assert re.search(r"\| all +\| 1.00 +\| 2.00 +\|", done.stdout)
    assert json.loads((workdir / "aur.json").read_text())["rows"] == ["hug", "inside", "all"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sets_per_relation": 9}, "fewer than --sets_per_relation=9"),
        ({"methods": ["magic", "reversion"]}, "no pictures by 'magic'"),
        ({"evaluation": Path("nowhere")}, "pictures.json: no such file"),
    ],
)
def test_nothing_is_written_if_the_page_of_a_study_cannot_be_made(evaluation, tmp_path, given, says):
    asked = {"evaluation": evaluation, "methods": [], "sets_per_relation": 4, "seed": 0} | given
    with pytest.raises((ValueError, OSError), match=re.escape(says)) as error:
        study.write_page(workdir=tmp_path / "study", **asked)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "study").exists()


def test_counting_votes_without_key_or_votes_is_refused(evaluation, tmp_path):
    workdir = tmp_path / "study"
    with pytest.raises(FileNotFoundError, match=r"key\.json: no such file"):
        study.count_votes(workdir, tmp_path / "votes")
    assert not workdir.exists()
    study.write_page(evaluation, workdir, [], 4, 0)
    with pytest.raises(ValueError, match="no votes in it"):
        study.count_votes(workdir, tmp_path / "votes")
    assert not (workdir / "aur.md").exists()
