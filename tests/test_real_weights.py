"""Runs benchmarks/real_weights.py on tiny models with random weights. The test needs PyTorch."""

import json
import runpy

import numpy as np
import pytest
import tiny
import tiny_clip
import tiny_run
from places import ROOT
from safetensors.numpy import save_file

torch_tiny = pytest.importorskip("torch_tiny")


@pytest.mark.long
def test_the_report_says_that_both_implementations_agree(recorded, tmp_path):
    main = runpy.run_path(str(ROOT / "benchmarks" / "real_weights.py"))["main"]
    shapes = json.loads((tiny_clip.RECORDED / "clip_shapes.json").read_text())
    clip = tiny_clip.write_folder(tmp_path / "clip", tiny.torch_weights(shapes, seed=3)["clip"])
    own = tiny_run.inputs(tmp_path / "inputs", recorded.folder)
    width = recorded.model.config.text.hidden_size
    save_file({"<R>": tiny.noise(5, (1, width)) * np.float32(0.1)}, tmp_path / "word.safetensors")
    settings = {name: own[name] for name in ("prepositions", "verbs", "initialiser", "batch_size")}
    settings |= {"positives_per_sample": 2, "accumulation": 1, "learning_rate": 0.02}
    main(
        [
            *("--model", str(recorded.folder), "--clip", str(clip), "--exemplars", str(own["exemplars"])),
            *("--words", str(tmp_path / "word.safetensors"), "--out", str(tmp_path / "out"), "--pixels", "16"),
            *("--sample_steps", "2", "--train_steps", "4"),
            *(f"--set={name}={value}" for name, value in settings.items()),
        ]
    )
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["pictures"]["largest difference (levels)"] <= 1
    assert found["a learned word drawn"]["largest difference (levels)"] <= 1
    assert found["row gradient"]["cosine of the gradients"] > 1 - 1e-6
    assert found["row gradient"]["relative difference (L2)"] < 1e-4
    assert min(found["CLIP features"].values()) > 1 - 1e-5
    assert found["4 steps of training"]["steps"] == 4
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| cosine of the gradients | 1 |" in page
    assert (tmp_path / "out" / "words.png").is_file()
