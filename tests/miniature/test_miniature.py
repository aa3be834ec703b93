"""Tests the miniature model of the package: every config runs on it, and PyTorch draws the same pictures with it."""

import re

import numpy as np
import pytest
from config_files import load

from reversion_jax import config as settings
from reversion_jax.data.relations import RELATIONS
from reversion_jax.drawing import generate
from reversion_jax.miniature import judge, scenes
from reversion_jax.training import loop, prepare, report
from reversion_jax.weights.resolve import MINIATURE_FOLDER


def test_the_miniature_is_small_enough_for_the_package():
    sizes = [path.stat().st_size for path in MINIATURE_FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) <= 20e6
    assert max(sizes) <= 15 * 2**20
    assert judge.WEIGHTS.stat().st_size <= 5e6


@pytest.mark.parametrize("name", RELATIONS)
def test_each_config_prepares_a_run_on_the_miniature(name):
    c = load(name)
    c.model = settings.MINIATURE
    job = prepare.prepare(prepare.settle(c))
    assert f"{c.num_exemplars} exemplars at 64 px" in report.describe(job)
    assert job.config.preview_prompts
    assert np.isfinite(job.data.mean).all()


@pytest.mark.parametrize(("name", "previews"), [("hug", 3), ("on", 0)])
def test_a_config_trains_on_the_miniature(name, previews, tmp_path, capsys):
    c = load(name)
    c.model, c.steps, c.sample_steps = settings.MINIATURE, 3, 4
    c.preview_every_steps, c.judged_prompts = previews, 4 if previews else 0
    (rows,) = loop.train(c, tmp_path)
    first = prepare.prepare(prepare.settle(c)).first_rows[0]
    assert rows.shape == (2, 128)
    assert (rows != first).any(axis=-1).all()
    assert (tmp_path / "contact_sheet.png").is_file()
    said = capsys.readouterr().out
    after = [int(share) for share in re.findall(r"judge, after : relation right (\d+)%", said)]
    assert len(after) == bool(previews)
    assert ("few pictures show the relation: try another --config.seed" in said) == any(share < 50 for share in after)


@pytest.fixture(scope="module")
def task() -> prepare.Job:
    c = load("hug")
    c.model = settings.MINIATURE
    return prepare.prepare(prepare.settle(c))


def test_pytorch_draws_the_same_pictures_with_the_miniature(task):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(MINIATURE_FOLDER, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompts, seeds = ["a photo of red circle on blue star", "green heart tied below pink square"], [0, 1]
    noise = np.array(generate.initial_noise(seeds, task.sd.config, (64, 64)))
    theirs = pipe(
        prompts,
        num_inference_steps=8,
        guidance_scale=3.0,
        height=64,
        width=64,
        latents=torch.from_numpy(noise.transpose(0, 3, 1, 2)),
        output_type="np",
    ).images
    sampling = generate.Sampling(num_steps=8, guidance_scale=3.0, resolution=64, batch_size=2)
    ours = generate.draw(task.sd, task.tokenizer, prompts, seeds, sampling=sampling)
    difference = (ours + 1) / 2 - theirs
    assert np.linalg.norm(difference) / np.linalg.norm(theirs) < 1e-4


def test_the_miniature_draws_named_relations_of_unseen_pairs(task, optimised):
    rng = np.random.default_rng(0)
    asked = [scenes.unseen_scenes(scenes.NAMED[i % 7], 1, seed=9000 + i)[0] for i in range(35)]
    texts = [f"{s.subject} {rng.choice(scenes.CAPTIONS[s.relation][0])} {s.object}" for s in asked]
    relation, entities = judge.right(judge.look(report.draw(task, texts, task.first_rows[0]) / 127.5 - 1), asked)
    # benchmarks/README.md has the figures of 500 prompts. The bounds here are lower, because results vary more with 35
    # prompts.
    assert relation.mean() >= 0.92
    assert entities.mean() >= 0.85
