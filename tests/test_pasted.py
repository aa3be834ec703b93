"""Parses every command that README and the other pages show, and runs some of these commands.

The default suite parses every command, and runs the commands that take a second. With -m long, the tests run all
commands on the miniature model that need no download, no accelerator and no file of the reader's, with few steps.
"""

import dataclasses
import json
import re
import subprocess
import sys
import tomllib

import numpy as np
import pasted
import pytest
import tiny
from config_files import load
from etils import epath
from places import ROOT, TESTS

from reversion_jax import config
from reversion_jax.runs import folder

# Command lines with an unknown flag, setting, config or value, and a part of the error message for each.
WRONG = [
    ("train", ["--config", "configs/hug.py", "--config.learning_rte=1"], "did you mean learning_rate?"),
    ("train", ["--config", "configs/hug.py", "--config.negatives=words"], "use one of prompts, vocabulary, tokens"),
    ("train", ["--config", "configs/nobody.py"], "no config file at 'configs/nobody.py'"),
    ("evaluate", ["--config", "configs/benchmark.py", "--config.evaluation.seds=(1,)"], "seds"),
    ("sample", ["--workdir", "runs/hug", "--promt", "cat"], "Unknown command line flag 'promt'"),
    ("export", ["runs/hug", "--workdir", "runs/hug"], "unexpected argument 'runs/hug'"),
    ("sample", "promt", "sample has no flag --promt"),
]


def test_the_flags_and_settings_of_all_commands_exist():
    shown = [command for command in (*pasted.in_blocks(), *pasted.in_sentences()) if command.command]
    asked = [(of.page, of.command, list(of.arguments)) for of in shown]
    assert len(asked) > 40
    for page, word in pasted.settings():
        if "=" in word and not word.endswith("=…"):
            of_evaluation = word.startswith("--config.evaluation.")
            command, file = ("evaluate", "benchmark") if of_evaluation else ("train", "hug")
            # `weight_shards` needs remat, which a sentence may leave out.
            asked.append((page, command, ["--config", f"configs/{file}.py", "--config.remat=True", word]))
        else:
            value = load("benchmark", "dreambooth")
            for name in word.removeprefix("--config.").partition("=")[0].split("."):
                assert name in value, f"{page}: {word}"
                value = value[name]
    asked += pasted.flags()
    lines = [line[1:] for line in asked] + [wrong[:2] for wrong in WRONG]
    done = subprocess.run(
        [sys.executable, TESTS / "parse_commands.py"],
        input=json.dumps(lines),
        cwd=ROOT,
        env=tiny.environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {str(line): wrong for line, wrong in zip(asked, said, strict=False) if wrong} == {}
    for (*_, says), found in zip(WRONG, said[len(asked) :], strict=True):
        assert says in found


def test_files_extras_and_markers_of_all_commands_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    markers = {marker.partition(":")[0] for marker in project["tool"]["pytest"]["ini_options"]["markers"]}
    for page, words in (*pasted.in_blocks(), *pasted.in_sentences()):
        for word in words:
            if re.fullmatch(r"(configs|launch|benchmarks|notebooks|recipes|tests)/[\w/]+\.\w+(:\w+)?", word):
                assert (ROOT / word.partition(":")[0]).is_file(), (page, word)
        if words[0] == "pip" and (named := re.search(r"(?:^|\s)(?:\.|reversion_jax)\[(.*?)\]", " ".join(words))):
            assert set(named[1].split(",")) <= set(extras), (page, words)
        if "pytest" in words and "-m" in words[3:]:
            assert words[words.index("-m", 3) + 1] in markers, (page, words)
        if words[0] == "python" and words[1].startswith("benchmarks/"):
            flags = [word[2:].partition("=")[0] for word in words[2:] if word.startswith("--")]
            assert [flag for flag in flags if flag not in (ROOT / words[1]).read_text()] == [], (page, words)


def test_export_commands_of_the_docs_run(tmp_path):
    """Each `export` in the docs runs offline with only the folder of a run. `python -m reversion_jax` also runs."""
    shown = [of for of in pasted.in_blocks() if of.command == "export" and "--push_to_hub" not in of.arguments]
    lines = dict.fromkeys(of.words for of in shown)
    assert lines
    for words in lines:
        workdir, step = (words[words.index(flag) + 1] if flag in words else "3" for flag in ("--workdir", "--step"))
        settings = dataclasses.replace(config.settle(config.get_config()), relation=workdir.rpartition("/")[2])
        folder.write_settings(epath.Path(tmp_path / workdir), settings, {})
        folder.write_rows(epath.Path(tmp_path / workdir), np.ones((2, 768), np.float32), int(step))
        _run(words, tmp_path)
        assert list((tmp_path / words[words.index("--out") + 1]).glob("*.safetensors")), words
    assert "python -m reversion_jax.train" in _run(("python", "-m", "reversion_jax"), tmp_path)


def _run(words, place) -> str:
    environment = tiny.environment() | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, *words[1:]]
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
    return done.stdout


@pytest.mark.long
def test_commands_of_the_docs_run_on_the_miniature_model(tmp_path):
    """Runs the commands of all pages in one folder, README first, as a reader would from page to page."""
    run, made = [], set()
    for shown in pasted.in_blocks():
        words = pasted.shortened(shown, made, tmp_path)
        if words and words not in run:
            print(f"{shown.page}: {' '.join(words)}", flush=True)
            _run(words, tmp_path)
            run.append(words)
    assert {words[2].partition(".")[2] for words in run} >= {"train", "sample", "inspect", "export"}
