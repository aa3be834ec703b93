"""Records the outputs of diffusers and transformers: `python tests/recorded/make_recorded.py`.

The script stores inputs, outputs, and PyTorch's names and shapes of the weights. The weights are not stored, because
they follow from a seed and from those names and shapes (tiny.torch_weights). So the tests that compare with these
outputs need neither PyTorch nor our own rule for the names of weights.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import tiny  # noqa: E402
import tiny_clip  # noqa: E402
import torch_clip  # noqa: E402
import torch_tiny  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shapes = torch_tiny.shapes(Path(scratch) / "empty")
        folder = tiny.write_folder(Path(scratch) / "tiny", tiny.torch_weights(shapes, seed=1))
        x = tiny.inputs(seed=50)
        found = torch_tiny.outputs(torch_tiny.pipeline(folder), x)
        write(x, shapes, found, "")
        shapes = {"clip": torch_clip.shapes(Path(scratch) / "empty_clip", tiny_clip.CONFIG)}
        weights = tiny.torch_weights(shapes, seed=3)["clip"]
        x, found = tiny_clip.inputs(seed=60), {}
        for variant, config in tiny_clip.VARIANTS.items():
            folder = tiny_clip.write_folder(Path(scratch) / variant, weights, config)
            found |= {f"{variant}_{name}": array for name, array in torch_clip.outputs(folder, x).items()}
        write(x, shapes, found, "clip_")


def write(x: dict, shapes: dict, found: dict, prefix: str) -> None:
    lines = [
        f'"{part}": {{\n' + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(named.items())) + "\n}"
        for part, named in shapes.items()
    ]
    (HERE / f"{prefix}shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez(
        HERE / f"{prefix}reference.npz",
        **{f"in_{name}": array for name, array in x.items()},
        **{f"out_{name}": array.astype(np.float32) for name, array in found.items()},
    )


if __name__ == "__main__":
    main()
