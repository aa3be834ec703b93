"""Tests the prompts of a run's previews, and the settings that reach the training step."""

import numpy as np
import pytest
from config_files import load
from tiny_run import changed

from reversion_jax import config as settings
from reversion_jax.data.exemplars import Exemplars
from reversion_jax.data.relations import RELATIONS
from reversion_jax.inversion.prompts import parse
from reversion_jax.training import prepare

SHOWN = Exemplars(
    np.zeros((10, 8, 8, 3), np.float32), tuple((parse(f"cat {{}} {n} dogs"), parse("a {} b")) for n in range(10)), ()
)


def prompts(config) -> tuple[str, ...]:
    return prepare.preview_prompts(prepare.settle(config), SHOWN)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_known_relation_has_eight_preview_prompts_of_the_package(relation):
    found = prompts(load(relation))
    assert len(found) == len(set(found)) == 8
    subjects, objects = zip(*(prompt.split(" <R> ") for prompt in found), strict=True)
    assert len(set(subjects)) == len(set(objects)) == 8


def test_preview_prompts_of_hug_combine_subjects_and_objects():
    assert prompts(load("hug"))[:3] == ("otter <R> teapot", "robot <R> astronaut", "bear <R> fox")


def test_an_unknown_relation_has_the_prompts_of_its_exemplars_as_preview_prompts():
    c = settings.get_config()
    c.relation = "juggling"
    assert prompts(c) == tuple(f"cat <R> {n} dogs" for n in range(8))


def test_the_miniature_model_has_its_own_preview_prompts():
    c = load("miniature")
    assert len(prompts(c)) == 16
    assert prompts(c)[0] == "green heart <R> blue triangle"


@pytest.mark.parametrize("model", [settings.SD15, settings.MINIATURE])
@pytest.mark.parametrize("mine", [("owl <R> fox",), ()])
def test_preview_prompts_of_the_user_are_kept_on_every_model(model, mine):
    c = load("hug")
    c.model, c.preview_prompts = model, mine
    assert prompts(c) == mine


def test_each_run_of_a_job_has_its_own_preview_prompts(config):
    runs = ({"relation": "hug"}, {"relation": "juggling"}, {"seed": 1, "preview_prompts": ["dog <R> cat"]})
    job = prepare.prepare(prepare.settle(changed(config, preview_prompts=None, runs=runs)))
    found = [run.config.preview_prompts for run in job.runs]
    assert found == [prompts(load("hug")), ("cat <R> dog",) * 3, ("dog <R> cat",)]


def test_settings_for_other_readings_of_the_papers_reach_the_step(config):
    published = prepare.prepare(prepare.settle(config)).step_config
    assert (published.adds_inverse, published.in_epochs, published.vocabulary_negatives) == (False, False, 0)
    others = {"inverse_prompts": "add", "exemplar_draws": "epochs", "negatives": "vocabulary"}
    job = prepare.prepare(prepare.settle(changed(config, **others)))
    found = job.step_config
    assert (found.adds_inverse, found.in_epochs, found.vocabulary_negatives) == (True, True, 16)
    assert found.samples_at_once == 2 * published.samples_at_once == 4
    # The other words of the tiny vocabulary are relation words ("on", "top", "of") or stop words ("photo").
    assert set(job.data.vocabulary[0].tolist()) == {*job.tokenizer.word_ids("cat"), *job.tokenizer.word_ids("dog")}
