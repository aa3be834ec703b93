import numpy as np

from reversion_jax.evaluation import tables
from reversion_jax.evaluation.tables import Metric

RIGHT, SCORE, ORDER = Metric("right", "right"), Metric("score", "entity score", percent=False), Metric("order", "order")
METRICS = (RIGHT, SCORE, ORDER)


def cell(right, score=(0.25, 0.75), **more):
    return {"right": list(right), "score": list(score), **more}


# Scores of two relations with two prompts each. Method A uses natural words and has no seeds. Method B has the seeds 3
# and 7, and also the seed 9 for "on". The metric "order" exists only for "on".
CELLS = {
    ("on", "A", "direct"): {None: cell([1, 0])},
    ("in", "A", "direct"): {None: cell([0, 0])},
    ("on", "B", "direct"): {7: cell([1, 1], order=[1, 0]), 3: cell([1, 0], order=[1, 1]), 9: cell([0, 0])},
    ("in", "B", "direct"): {3: cell([1, 1]), 7: cell([0, 1])},
    ("on", "B", "inverse"): {3: cell([0, 0]), 7: cell([1, 0])},
    ("on", "C", "direct"): {7: cell([0, 1])},
}


def of(method, direction="direct", relations=("on", "in")):
    return [(relation, method, direction) for relation in relations]


def test_values_have_axes_of_relations_seeds_and_prompts():
    """The values have only the seeds that every relation has, in the same order for all relations."""
    np.testing.assert_array_equal(tables.values(CELLS, of("B"), "right"), [[[1, 1], [1, 0]], [[0, 1], [1, 1]]])
    np.testing.assert_array_equal(tables.values(CELLS, of("A"), "right"), [[[1, 0]], [[0, 0]]])
    assert tables.values(CELLS, of("B", "inverse", ["in"]), "right") is None
    assert tables.values(CELLS, of("B", "inverse"), "right").shape == (1, 2, 2)


def test_a_relation_without_the_metric_is_left_out_of_the_values():
    np.testing.assert_array_equal(tables.values(CELLS, of("B"), "order"), [[[1, 0], [1, 1]]])
    assert tables.values(CELLS, of("A"), "order") is None


def test_differences_are_paired_by_relation_seed_and_prompt():
    found = tables.difference(CELLS, of("C"), of("B"), "right")
    np.testing.assert_array_equal(found, [[[-1, 0]]])  # only seed 7 of "on" is in the cells of both methods
    found = tables.difference(CELLS, of("A"), of("B"), "right")  # A has no seeds and is compared with each seed of B
    np.testing.assert_array_equal(found, [[[0, -1], [0, 0]], [[0, -1], [-1, -1]]])
    found = tables.difference(CELLS, of("B", "inverse"), of("B"), "right")
    assert sorted(map(tuple, found[0])) == [(-1, 0), (0, -1)]
    assert tables.difference(CELLS, of("D"), of("B"), "right") is None
    assert tables.difference(CELLS, of("A"), of("B"), "order") is None


def test_the_summary_has_a_mean_for_each_group_method_and_metric():
    records = tables.summary(CELLS, {"all": ["on", "in"], "one": ["in"]}, ["A", "B"], METRICS)
    means = {
        (r["group"], r["method"], r["direction"], r["metric"]): (r["mean"], r["relations"], r["seeds"], r["prompts"])
        for r in records
    }
    assert means["all", "A", "direct", "right"] == (0.25, 2, 1, 2)
    assert means["all", "B", "direct", "right"] == (0.75, 2, 2, 2)
    assert means["all", "B", "direct", "score"] == (0.5, 2, 2, 2)
    assert means["all", "B", "direct", "order"] == (0.75, 1, 2, 2)
    assert means["all", "B", "inverse", "right"] == (0.25, 1, 2, 2)
    assert means["one", "A", "direct", "right"] == (0.0, 1, 1, 2)
    assert all(r["low"] <= r["mean"] <= r["high"] for r in records)
    lines = tables.markdown(records, "all", ["A", "B"], METRICS).splitlines()
    assert lines[0] == "**all**, 2 prompts a cell"
    assert lines[2] == "| method | relations | seeds | right | entity score | order |"
    assert lines[4].startswith("| A | 2 | 1 | 25 [")
    assert lines[4].endswith(" | 0.500 [0.250, 0.750] |  |")
    assert lines[5].startswith("| B | 2 | 2 | 75 [")
    assert lines[6].startswith("| B, turned round | 1 | 2 | 25 [")
    assert len(lines) == 7
    assert "order" not in tables.markdown(records, "one", ["A"], METRICS)
    assert tables.markdown(records, "one", ["C"], METRICS) == ""


def test_the_table_by_relation_has_a_row_for_each_relation():
    lines = tables.by_relation(CELLS, ["on", "in"], ["A", "B", "C"], RIGHT).splitlines()
    assert lines[0] == "| right | A | B | C |"
    assert lines[2].startswith("| on | 50 [0, 100] | 50 [")
    assert lines[3].startswith("| in | 0 [0, 0] | 75 [")
    assert lines[3].endswith(" |  |")


def test_the_table_of_differences_has_a_row_for_each_other_method():
    lines = tables.differences(CELLS, ["on"], ["A", "B", "D"], "B", (RIGHT, SCORE)).splitlines()
    assert lines[0] == "| minus B | right | entity score |"
    assert lines[2].startswith("| A | +0 [")
    assert lines[2].endswith(" | +0.000 [0.000, 0.000] |")
    assert lines[3].startswith("| B, turned round | -50 [")
    assert len(lines) == 4


def test_the_csv_file_has_every_figure():
    records = tables.summary(CELLS, {"all": ["on", "in"]}, ["A"], (RIGHT,))
    head, row = tables.as_csv(records).splitlines()
    assert head == "group,method,direction,metric,mean,low,high,relations,seeds,prompts"
    assert row.startswith("all,A,direct,right,0.25,")
    assert tables.as_csv([]) == ""
