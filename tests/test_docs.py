"""What docs say of tests is so."""

import re

from places import ROOT, TESTS


def test_every_fault_has_a_test():
    """docs/faults.md names a test, or the file of several, in each row; a name without a file is in the one before."""
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
