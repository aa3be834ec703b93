"""Records what diffusers and transformers compute: `python tests/recorded/make_recorded.py`.

Only inputs and outputs are stored; the weights follow from a seed (tiny.torch_weights) and from PyTorch's
names and shapes, which are stored too: the comparison needs neither PyTorch nor our own naming rule.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import tiny  # noqa: E402
import torch_tiny  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shapes = torch_tiny.shapes(Path(scratch) / "empty")
        folder = tiny.write_folder(Path(scratch) / "tiny", tiny.torch_weights(shapes, seed=1))
        x = tiny.inputs(seed=50)
        found = torch_tiny.outputs(torch_tiny.pipeline(folder), x)
    lines = [
        f'"{part}": {{\n' + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(named.items())) + "\n}"
        for part, named in shapes.items()
    ]
    (HERE / "shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez(
        HERE / "reference.npz",
        **{f"in_{name}": array for name, array in x.items()},
        **{f"out_{name}": array.astype(np.float32) for name, array in found.items()},
    )


if __name__ == "__main__":
    main()
