"""README's Python runs as it stands."""

import re
from pathlib import Path

import numpy as np


def test_library_example():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["images"].shape == (1, 64, 64, 3)
    assert names["gradient"].shape == names["row"].shape == (1, 128)
    assert np.isfinite(names["gradient"]).all()
    assert np.abs(names["gradient"]).max() > 0
