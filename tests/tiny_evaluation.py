"""Writes an evaluation folder for the tests of the user study. The colour of a picture identifies the picture."""

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from reversion_jax.data import exemplars

METHODS = ["stable_diffusion", "textual_inversion", "reversion", "inv_reversion"]
PROMPTS = ["cat <R> hat", "red owl <R> box", "</script><b>ape <R> box", "fox <R> tree", "pig <R> mill"]


def write(folder: Path, *, relations=("hug", "inside"), prompts=PROMPTS, seeds=(0, 1), methods=METHODS) -> Path:
    """Writes an evaluation folder and returns its path.

    Picture n of pictures.json has a single colour, whose red value is n.
    """
    records = []
    for relation, prompt, seed, method in itertools.product(relations, prompts, seeds, methods):
        name = f"{len(records):03d}-{method}.png"
        info = PngImagePlugin.PngInfo()
        info.add_text("words", f"{relation} by {method}")
        colour = (len(records), 255 - len(records), 7)
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(folder / name, pnginfo=info, icc_profile=method.encode())
        records.append({"relation": relation, "method": method, "seed": seed, "prompt": prompt, "file": name})
    (folder / "pictures.json").write_text(json.dumps(records))
    for n, relation in enumerate(relations):
        shown = np.full((2, 8, 8, 3), n, np.uint8)
        explicit = {"text": "a {subject} {} {object}", "subject": "dog", "object": "bag"}
        exemplars.write_folder(folder / "exemplars" / relation, shown, [["man {} child"], [explicit]])
    return folder
