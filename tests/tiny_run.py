"""A finished training run of seconds on the tiny model, for all tests that read one. Fixtures; see conftest.py."""

import numpy as np
import pytest

from reversion_jax import config as settings
from reversion_jax.data import exemplars
from reversion_jax.training import loop


@pytest.fixture(scope="session")
def config(small, tmp_path_factory):
    """A run of seconds on the tiny model: six steps, previews, checkpoints."""
    place = tmp_path_factory.mktemp("inputs")
    shown = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
    exemplars.write_folder(place / "exemplars", shown, [["cat {} dog", "photo of cat {} dog"]] * 3)
    (place / "words.txt").write_text("on\ntop\nof\n")
    c = settings.get_config()
    c.model, c.exemplars, c.relation = str(small), str(place / "exemplars"), "on"
    c.prepositions = c.verbs = str(place / "words.txt")
    c.resolution, c.steps, c.batch_size, c.accumulation, c.positives_per_sample = 16, 6, 2, 1, 2
    c.initialiser, c.learning_rate, c.steps_per_dispatch = "on", 0.01, 2
    c.checkpoint_every_steps, c.preview_every_steps = 2, 3
    c.sample_steps, c.sample_batch, c.preview_prompts = 2, 2, ("cat <R> dog", "dog <R> cat", "dog <R-inv> <R> cat")
    return c


def changed(config, **values):
    config = config.copy_and_resolve_references()
    config.update(values)
    return config


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, loop.train(config, workdir)
