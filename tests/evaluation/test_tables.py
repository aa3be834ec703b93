import numpy as np

from reversion_jax.evaluation import tables

YES, NO = True, False


def cell(relation, entities, fused=(NO, NO), leaked=(NO, NO)):
    return tables.Cell(*map(np.array, (relation, entities, fused, leaked)))


# Two relations, two prompts; method B has two seeds and turns round, A (words) has one.
CELLS = {
    ("on", "A", "direct"): [cell([YES, NO], [YES, YES])],
    ("in", "A", "direct"): [cell([NO, NO], [YES, NO], leaked=[YES, NO])],
    ("on", "B", "direct"): [cell([YES, YES], [YES, NO], [NO, YES]), cell([YES, YES], [YES, YES])],
    ("in", "B", "direct"): [cell([YES, YES], [YES, YES]), cell([NO, YES], [YES, YES])],
    ("on", "B", "inverse"): [cell([NO, YES], [YES, YES]), cell([YES, YES], [YES, NO])],
}


def test_values_have_relations_seeds_and_prompts():
    both = tables.values(CELLS, ["on", "in"], "B", "direct", "both")
    np.testing.assert_array_equal(both, [[[1, 0], [1, 1]], [[1, 1], [0, 1]]])
    assert tables.values(CELLS, ["in"], "B", "inverse", "both") is None
    assert tables.values(CELLS, ["on", "in"], "B", "inverse", "relation").shape == (1, 2, 2)


def test_summary_and_its_table():
    records = tables.summary(CELLS, {"all": ["on", "in"], "one": ["in"]}, ["A", "B"])
    means = {
        (r["group"], r["method"], r["direction"], r["metric"]): (r["mean"], r["relations"], r["seeds"], r["prompts"])
        for r in records
    }
    assert means["all", "A", "direct", "relation"] == (0.25, 2, 1, 2)
    assert means["all", "B", "direct", "both"] == (0.75, 2, 2, 2)
    assert means["all", "B", "direct", "fused"] == (0.125, 2, 2, 2)
    assert means["all", "A", "direct", "leaked"] == (0.25, 2, 1, 2)
    assert means["all", "B", "inverse", "both"] == (0.5, 1, 2, 2)
    assert means["one", "A", "direct", "both"] == (0.0, 1, 1, 2)
    assert len(records) == 5 * (3 + 2)
    assert all(r["low"] <= r["mean"] <= r["high"] for r in records)
    lines = tables.markdown(records, "one", ["A", "B"]).splitlines()
    assert lines[0] == "**one**, 2 prompts a cell"
    assert lines[4].startswith("| A | 1 | 1 | 0 [0, 0] | 50 [0, 100] | 0 [0, 0] | 0 [0, 0] | 50 [0, 100] |")
    assert lines[5].startswith("| B | 1 | 2 | 75 [")
    assert len(lines) == 6
    of_b = tables.markdown(records, "all", ["B"]).splitlines()
    assert len(of_b) == 6
    assert of_b[5].startswith("| B, turned round | 1 | 2 | 75 [")


def test_by_relation():
    lines = tables.by_relation(CELLS, ["on", "in"], ["A", "B"], "both").splitlines()
    assert lines[0] == "| all right | A | B |"
    assert lines[2].startswith("| on | 50 [0, 100] | 75 [")
    assert lines[3].startswith("| in | 0 [0, 0] | 75 [")


def test_differences_pair_every_seed_with_the_words():
    line, _ = tables.differences(CELLS, ["on"], ["A"], "B").splitlines()[2:]
    # Relation: A 1 0, B 1 1 for both seeds: 0 and -1 whichever seed. All right: A 1 0; B 1 0 and 1 1: -0.25.
    assert line.startswith("| A | -50 [-100, 0] | +25 [")
    assert "| -25 [" in line
    assert tables.differences(CELLS, ["on"], ["C"], "A").count("\n") == 2


def test_differences_show_the_baseline_said_otherwise_too():
    line = tables.differences(CELLS, ["on", "in"], ["B"], "B").splitlines()[2]  # "in" is not turned round
    assert line.startswith("| B, turned round | -25 [")
