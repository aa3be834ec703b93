"""Runs the Python example of the README."""

import re

import numpy as np
from places import ROOT

from reversion_jax.runs import folder
from reversion_jax.weights import embeddings


def test_the_library_example_of_the_readme_runs(tmp_path, monkeypatch):
    """The example reads a word that earlier commands of README train and export. Here a random word replaces it."""
    monkeypatch.chdir(tmp_path)
    word = 0.1 * np.random.default_rng(0).normal(size=(1, 128))
    embeddings.write({"<R>": word}, "hanging_from", "embeddings")
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["images"].shape == (1, 64, 64, 3)
    gradient = names["gradient"]["<R>"]
    assert gradient.shape == names["words"]["<R>"].shape == (1, 128)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    run = folder.read(tmp_path / "runs" / "hug-library")
    assert run.step == 10
    written = embeddings.read(tmp_path / "runs" / "hug-library" / "embeddings" / "hug.safetensors")
    np.testing.assert_array_equal(written["<R>"], run.words()["<R>"])
