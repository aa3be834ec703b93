"""Runs each command as a user types it, in a separate process. Other files test more inputs that commands refuse."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_run
from etils import epath
from PIL import Image
from places import ROOT
from safetensors.numpy import load_file

from reversion_jax.__main__ import COMMANDS
from reversion_jax.runs.owner import NAME, owned


def run(command: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", f"reversion_jax.{command}", *arguments]
    return subprocess.run(line, cwd=cwd, env=tiny.environment(), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def overrides(small, tmp_path_factory) -> list[str]:
    """Command-line overrides that turn configs/hug.py into a job of a few seconds."""
    place = tmp_path_factory.mktemp("inputs")
    settings = tiny_run.inputs(place, small, count=2) | {"relation": "hug", "steps": 2, "checkpoint_every_steps": 1}
    return [f"--config.{key}={value}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def workdir(overrides, tmp_path_factory) -> Path:
    """The folder of a run of two steps on the tiny model, trained with a config that comes with the package."""
    place = tmp_path_factory.mktemp("commands")
    done = run("train", "--config", "configs/hug.py", "--workdir", "run", *overrides, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "2 exemplars at 16 px" in done.stdout
    assert (place / "run" / "contact_sheet.png").is_file()
    return place / "run"


def test_sample_draws_pictures_that_record_how_they_were_made(workdir, tmp_path):
    out = tmp_path / "pictures"
    arguments = ["--prompt", "cat <R> dog", "--prompt", "a dog", "--num_images", "3", "--seed", "7", "--step", "1"]
    done = run("sample", "--workdir", str(workdir), *arguments, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "none of <R>, <R-inv> in 'a dog'" in done.stderr
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 7
    assert names[0] == "000-cat-r-dog-7.png"
    picture = Image.open(out / names[2])
    assert picture.text["prompt"] == "cat <R> dog"
    assert picture.text["seed"] == "9"
    assert picture.text["steps"] == "2"
    assert picture.text["words"] == "hug by inv_reversion, 1 of 2 steps trained"
    assert np.asarray(picture).shape == (16, 16, 3)


def test_export_writes_the_words_as_embedding_files(workdir, tmp_path):
    done = run("export", "--workdir", str(workdir), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "hug-inv.safetensors",
        "hug.safetensors",
        "learned_embeds.bin",
    ]
    assert load_file(tmp_path / "hug.safetensors")["<R>"].shape == (1, 32)
    assert "a word of 32 numbers fits " in done.stdout  # and no Stable Diffusion 1.x


def test_inspect_writes_and_prints_its_report(workdir, tmp_path):
    done = run("inspect", str(workdir), "--step", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.json", "words.png", "words.txt"]
    assert (tmp_path / "words.txt").read_text() in done.stdout
    assert [stop["step"] for stop in json.loads((tmp_path / "words.json").read_text())["<R>"]["path"]] == [0, 1]


def test_score_measures_the_words_of_a_run(workdir):
    done = run("score", "--workdir", str(workdir))
    assert done.returncode == 0, done.stderr
    seen = json.loads((workdir / "scores.json").read_text())["words"]
    assert list(seen) == ["<R>", "<R-inv>"]
    # Both words start from "on". After two steps the words differ from each other and from "on", but are still near
    # "on".
    assert 0.5 < seen["<R>"]["cosine_to_on"] < 0.99999
    assert seen["<R>"]["cosine_to"]["<R-inv>"] == seen["<R-inv>"]["cosine_to"]["<R>"] < 0.99999
    assert next(iter(seen["<R>"]["nearest"])) == "on"


def test_dreambooth_makes_a_model_that_sample_can_draw_with(overrides, tmp_path):
    """The command for `sample` that DreamBooth prints at its end works."""
    own = ["--steps", "1", "--batch_size", "2", "--word", "on", "--workdir", str(tmp_path / "run")]
    done = run("dreambooth", "--config", "configs/hug.py", *overrides, *own)
    assert done.returncode == 0, done.stderr
    said = shlex.split(done.stdout.splitlines()[-1].partition("python -m reversion_jax.sample ")[2])
    done = run("sample", *said, "--num_images", "1", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(tmp_path / "out" / "000-a-on-b-0.png")).shape == (16, 16, 3)


def test_a_second_job_in_the_folder_of_a_running_job_is_refused(workdir, overrides):
    """The second job changes no file of the first job."""
    read = lambda: {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != NAME}
    before = read()
    with owned(epath.Path(workdir)):
        done = run("train", "--config", "configs/hug.py", "--workdir", str(workdir), *overrides, "--config.seed=1")
    assert done.returncode == 2
    assert f"error: {workdir} belongs to process {os.getpid()} on " in done.stderr
    assert done.stderr.count("\n") == 1
    assert read() == before


EDITING = ["--init_image", "nowhere.png", "--strength", "0.5", "--interpolate", "4", "--to_seed", "3"]


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("train", ["--config", "configs/hug.py", "--config.learning_rte=1"], "rte: did you mean learning_rate?"),
        ("train", ["--config", "configs/hug.py", "--config.learning_rate=fast"], "could not convert string to float"),
        ("export", [], "give --workdir; --help says more"),
        ("export", ["--workdir", "RUN"], "give --out=DIR, or --push_to_hub=OWNER/NAME"),
        ("export", ["--workdir", "RUN", "--out", "x", "--private"], "--private is for --push_to_hub=OWNER/NAME"),
        ("train", ["--config", "nowhere.py"], "nowhere.py"),
        ("sample", ["--workdir", "nowhere", "--prompt", "cat <R> dog"], "no training run in nowhere"),
        ("sample", ["--workdir", "RUN"], "give --prompt, or --prompts_file"),
        ("sample", ["--workdir", "RUN", "--prompt", "a", *EDITING], "no picture at nowhere.png"),
        ("export", ["--workdir", "nowhere", "--out", "elsewhere"], "no training run in nowhere"),
        ("export", ["--workdir", "RUN", "--out", "elsewhere", "--step", "7"], "give one of the steps 1, 2"),
        ("score", [], "nothing to score: give --pictures"),
        ("score", ["--workdir", "nowhere"], "no training run in nowhere"),
        ("inspect", [], "give one run's folder or embedding file"),
        ("study", ["--workdir", "study"], "give --evaluation=FOLDER to write the page, or --votes=FOLDER"),
        ("study", ["--workdir", "study", "--evaluation", "nowhere"], "pictures.json: no such file"),
        ("evaluate", ["--config", "configs/evaluation.py:hrad"], "configs/evaluation.py:hrad: use one of hard, easy"),
        ("evaluate", ["--config", "configs/hug.py"], "the config does not say what to compare"),
        ("evaluate", ["--config", "configs/hug.py", "--workdir", "gs://b/f"], "needs a folder of this machine"),
        ("dreambooth", ["--config", "configs/ten_relations.py"], "one model of one relation: give a config without"),
        ("dreambooth", ["--config", "configs/hug.py"], "no folder of exemplars at 'exemplars/hug'"),
    ],
)
def test_bad_input_ends_with_one_error_line(command, arguments, says, workdir, tmp_path):
    done = run(command, *(str(workdir) if word == "RUN" else word for word in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mistake", ["confi.get_config()", "[] + 1"])
def test_an_error_about_a_users_config_is_one_line_with_the_place_of_the_mistake(mistake, tmp_path):
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {mistake}\n")
    done = run("train", "--config", "mine.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the config cannot be read: ")
    assert done.stderr.endswith("mine.py, line 2)\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_short_and_names_the_output_folder(command):
    done = run(command, "--help")
    assert done.returncode == 0
    # Every command writes files, and its help names the option for their folder.
    assert ("--folder" if command == "app" else "workdir") in done.stdout.lower()
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert "python -m reversion_jax." in done.stdout
