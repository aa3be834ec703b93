"""Checks the statements of docs/ about tests and results."""

import re
import shutil

import pytest
from config_files import load
from places import ROOT, TESTS

from reversion_jax.evaluation.compare import evaluate


def test_every_fault_in_the_docs_has_a_test():
    """Each row of docs/faults.md names a test file or a test. A test without its file is in the file named last."""
    rows = [
        line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| (?!what|---)", line)
    ]
    assert len(rows) > 40
    for row in rows:
        file = ""
        for name in re.findall(r"`([^`]*)`", row.rpartition("|")[0].rpartition("|")[2]):
            file, _, test = name.partition("::") if not name.startswith("::") else (file, "", name[2:])
            assert (TESTS / file).is_file(), row
            assert not test or f"def {test}(" in (TESTS / file).read_text(), row


@pytest.mark.parametrize(
    ("setting", "page", "quoted"),
    [
        ("hard", "evaluation.md", "89 [75, 99] | 94 [89, 97] | 83 [69, 94] | 2 [1, 3] | 0 [0, 0] |"),
        ("fusing", "evaluation.md", "43 [19, 71] | 45 [34, 55] | 19 [9, 31] | 31 [21, 42] |"),
        ("precision", "many_devices.md", "94 [86, 100] | 96 [88, 100] | 91 [81, 98] |"),
        ("defaults", "evaluation.md", "99 [97, 100] | 98 [91, 100] | 97 [89, 100] | 0 [0, 2] |"),
        ("inverse", "sources.md", "95 [89, 100] | 97 [91, 100] | 93 [83, 99] | 1 [0, 4] |"),
    ],
)
def test_tables_in_the_docs_follow_from_the_stored_verdicts(setting, page, quoted, tmp_path):
    """The tables are made from the verdicts in docs/cells/, without drawing a picture, and a page quotes them."""
    kept = ROOT / "docs" / "cells" / setting
    shutil.copyfile(kept / "cells.jsonl", tmp_path / "cells.jsonl")
    evaluate(load("evaluation", setting), str(tmp_path), tables_only=True)
    made = (tmp_path / "tables.md").read_text()
    assert made == (kept / "tables.md").read_text()
    assert quoted in made
    assert quoted in (ROOT / "docs" / page).read_text()
