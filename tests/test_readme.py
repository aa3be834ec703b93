"""README's Python runs as it stands."""

import re

import numpy as np
from places import ROOT


def test_library_example():
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["images"].shape == (1, 64, 64, 3)
    assert names["gradient"].shape == names["row"].shape == (1, 128)
    assert np.isfinite(names["gradient"]).all()
    assert np.abs(names["gradient"]).max() > 0
