"""Where things lie that tests read."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"  # real inputs, beside the repository where there are any
