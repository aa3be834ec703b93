"""The folders that tests read."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"  # real inputs; this folder beside the repository need not exist
