"""The commands as a user types them, each in a process of its own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from places import ROOT
from safetensors.numpy import load_file

from reversion_jax.data import exemplars
from reversion_jax.weights import embeddings


def run(command: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", f"reversion_jax.{command}", *arguments]
    return subprocess.run(line, cwd=cwd, env=tiny.quick_environment(), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def workdir(recorded, tmp_path_factory) -> Path:
    """A run of two steps on the tiny model."""
    place = tmp_path_factory.mktemp("commands")
    shown = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    exemplars.write_folder(place / "exemplars", shown, [["cat {} dog"]] * 2)
    (place / "words.txt").write_text("on\ntop\nof\n")
    settings = {
        "model": recorded.folder,
        "exemplars": place / "exemplars",
        "prepositions": place / "words.txt",
        "verbs": place / "words.txt",
        "initialiser": "on",
        "resolution": 16,
        "steps": 2,
        "accumulation": 1,
        "positives_per_sample": 2,
        "sample_steps": 2,
    }
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    done = run("train", "--config", "configs/hug.py", "--workdir", str(place / "run"), *overrides)
    assert done.returncode == 0, done.stderr
    assert "2 exemplars at 16 px" in done.stdout
    assert (place / "run" / "contact_sheet.png").is_file()
    return place / "run"


def test_sample(workdir, tmp_path):
    out = tmp_path / "pictures"
    arguments = ["--prompt", "cat <R> dog", "--prompt", "a dog", "--num_images", "3", "--seed", "7", "--out", str(out)]
    done = run("sample", "--workdir", str(workdir), *arguments)
    assert done.returncode == 0, done.stderr
    assert "none of <R>, <R-inv> in 'a dog'" in done.stderr
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 7
    assert names[0] == "000-cat-r-dog-7.png"
    picture = Image.open(out / names[2])
    assert picture.text["prompt"] == "cat <R> dog"
    assert picture.text["seed"] == "9"
    assert picture.text["steps"] == "2"
    assert np.asarray(picture).shape == (16, 16, 3)


def test_sample_both_ways(workdir, tmp_path):
    arguments = ["--prompt", "cat <R> dog", "--num_images", "1", "--both_ways", "alternate", "--out", str(tmp_path)]
    done = run("sample", "--workdir", str(workdir), *arguments)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "000-cat-r-dog-0.png").text["both_ways"] == "alternate"


def test_sample_needs_no_training_run(recorded, workdir, tmp_path):
    """A model, embedding files of two kinds, prompts from a file; and the same word gives the run's own picture."""
    done = run("export", "--workdir", str(workdir), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (tmp_path / "prompts.txt").write_text("cat <R> dog\n\ndog hug cat\ndogs hugging, of a photo on top of cat\n")
    common = ["--num_images", "1", "--sampler", "dpmpp_2m_karras", "--steps", "3", "--resolution", "16"]
    words = ["--embedding", str(tmp_path / "learned_embeds.bin"), "--embedding", f"hug={tmp_path}/hug.safetensors"]
    arguments = ["--model", str(recorded.folder), *words, "--prompts_file", str(tmp_path / "prompts.txt")]
    done = run("sample", *arguments, *common, "--precision", "bfloat16", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "is too long; left out: " in done.stderr
    assert "none of <R>, hug in 'dogs hugging" in done.stderr
    pictures = sorted((tmp_path / "out").glob("00*.png"))
    assert [path.name[:3] for path in pictures] == ["000", "001", "002"]
    assert Image.open(pictures[0]).text["sampler"] == "dpmpp_2m_karras"

    sources = {"files": arguments[:4], "run": ["--workdir", str(workdir)]}
    for name, source in sources.items():
        out = str(tmp_path / name)
        done = run("sample", *source, "--prompt", "cat <R> dog", *common, "--guidance_scale", "3", "--out", out)
        assert done.returncode == 0, done.stderr
    files, of_run = (np.asarray(Image.open(tmp_path / name / "000-cat-r-dog-0.png"), int) for name in sources)
    assert np.abs(files - of_run).max() <= 1


def test_export(workdir, tmp_path):
    done = run("export", "--workdir", str(workdir), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "hug-inv.safetensors",
        "hug.safetensors",
        "learned_embeds.bin",
    ]
    assert load_file(tmp_path / "hug.safetensors")["<R>"].shape == (1, 32)


def test_score_looks_at_a_runs_words(workdir):
    done = run("score", "--workdir", str(workdir))
    assert done.returncode == 0, done.stderr
    seen = json.loads((workdir / "scores.json").read_text())["words"]
    assert list(seen) == ["<R>", "<R-inv>"]
    # Two steps: away from where both started, but not far, nor both to the same place.
    assert 0.5 < seen["<R>"]["cosine_to_on"] < 0.99999
    assert seen["<R>"]["cosine_to"]["<R-inv>"] == seen["<R-inv>"]["cosine_to"]["<R>"] < 0.99999
    assert next(iter(seen["<R>"]["nearest"])) == "on"


def test_dreambooth(recorded, workdir, tmp_path):
    """What it leaves is a model, which draws as it says."""
    given = {"model": recorded.folder, "exemplars": workdir.parent / "exemplars", "resolution": 16, "sample_steps": 2}
    config = [f"--config.{key}={value}" for key, value in given.items()]
    own = ["--steps", "1", "--batch_size", "2", "--word", "on", "--workdir", str(tmp_path / "run")]
    done = run("dreambooth", "--config", str(ROOT / "configs" / "hug.py"), *config, *own)
    assert done.returncode == 0, done.stderr
    said = shlex.split(done.stdout.splitlines()[-1].partition("python -m reversion_jax.sample ")[2])
    done = run("sample", *said, "--num_images", "1", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(tmp_path / "out" / "000-a-on-b-0.png")).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("train", ["--config", "configs/hug.py"], "no folder of exemplars at 'exemplars/hug'"),
        (
            "train",
            ["--config", "configs/hug.py", "--config.exemplars=EXEMPLARS", "--config.model=no"],
            "neither a folder",
        ),
        ("train", ["--config", "configs/hug.py", "--config.exemplars=EXEMPLARS", "--config.model=own/er"], "own/er"),
        ("train", ["--config", "configs/hug.py", "--config.method=magic"], "use one of inv_reversion"),
        ("train", ["--config", "configs/hug.py", "--config.nokey=1"], "nokey"),
        ("train", ["--config", "nowhere.py"], "nowhere.py"),
        ("sample", ["--workdir", "nowhere", "--prompt", "cat <R> dog"], "no training run in nowhere"),
        ("sample", ["--prompt", "cat <R> dog"], "give --workdir=RUN or --model="),
        ("sample", ["--workdir", "RUN"], "give --prompt, or --prompts_file"),
        ("sample", ["--workdir", "RUN", "--prompt", "<R>", "--sampler", "magic"], "known: ddim, pndm, euler"),
        ("sample", ["--workdir", "RUN", "--prompt", "<R>", "--resolution", "15"], "resolution=15"),
        ("sample", ["--workdir", "RUN", "--prompt", "a dog", "--both_ways", "mean"], "cannot turn 'a dog' round: 0 {}"),
        ("sample", ["--model", "miniature", "--prompt", "a <R> b", "--both_ways", "mean"], "needs <R> and <R-inv>"),
        ("sample", ["--model", "miniature", "--prompt", "a", "--embedding", "WIDE"], "is 32 numbers wide"),
        ("sample", ["--model", "miniature", "--prompt", "a", "--embedding", "none.pt"], "no embedding at none.pt"),
        ("sample", ["--workdir", "RUN", "--prompt", "a", "--embedding", "WIDE"], "<R> is given twice"),
        ("export", ["--workdir", "nowhere", "--out", "elsewhere"], "no training run in nowhere"),
        ("evaluate", ["--config", "configs/hug.py"], "the config says nothing of what to compare"),
        ("dreambooth", ["--config", "configs/ten_relations.py"], "one model of one relation: give a config without"),
    ],
)
def test_bad_input_ends_in_one_line(command, arguments, says, workdir, tmp_path):
    embeddings.export(np.ones((1, 32), np.float32), 1, "wide", tmp_path)
    stand_ins = {"EXEMPLARS": workdir.parent / "exemplars", "RUN": workdir, "WIDE": tmp_path / "wide.safetensors"}
    for name, path in stand_ins.items():
        arguments = [a.replace(name, str(path)) for a in arguments]
    paths = [str(ROOT / a) if a.startswith("configs/") else a for a in arguments]
    done = run(command, *paths, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "sample", "export", "score", "study", "evaluate", "dreambooth"])
def test_help_helps(command):
    done = run(command, "--help")
    assert "workdir" in done.stdout
    assert "python -m reversion_jax." in done.stdout
