"""Fixtures of a training run that takes seconds on the tiny model. conftest.py imports the fixtures."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from reversion_jax import config as settings
from reversion_jax.data import exemplars
from reversion_jax.training import loop


def inputs(place: Path, model: Path, count: int = 3) -> dict[str, object]:
    """Writes exemplars and a word list into `place`. Returns settings of a short run that uses these files."""
    shown = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)[:count]
    exemplars.write_folder(place / "exemplars", shown, [["cat {} dog", "photo of cat {} dog"]] * count)
    (place / "words.txt").write_text("on\ntop\nof\n")
    of_data = {"model": str(model), "exemplars": str(place / "exemplars"), "relation": "on", "initialiser": "on"}
    of_words = dict.fromkeys(("prepositions", "verbs"), str(place / "words.txt"))
    of_step = {"resolution": 16, "batch_size": 2, "accumulation": 1, "positives_per_sample": 2, "steps_per_dispatch": 2}
    return {**of_data, **of_words, **of_step, "sample_steps": 2, "sample_batch": 2}


def command(settings: Mapping[str, object]) -> list[str]:
    """Returns the command line of a run with these settings, without --workdir."""
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "reversion_jax.train", "--config", str(ROOT / "configs" / "hug.py"), *overrides]


@pytest.fixture(scope="session")
def config(small, tmp_path_factory):
    """The config of a short run on the tiny model: six steps, with previews and checkpoints."""
    c = settings.get_config()
    c.update(inputs(tmp_path_factory.mktemp("inputs"), small))
    c.steps, c.learning_rate, c.checkpoint_every_steps, c.preview_every_steps = 6, 0.01, 2, 3
    c.preview_prompts = ("cat <R> dog", "dog <R> cat", "dog <R-inv> <R> cat")
    return c


def changed(config, **values):
    config = config.copy_and_resolve_references()
    config.update(values)
    return config


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, loop.train(config, workdir)
