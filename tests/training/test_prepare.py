"""Which prompts a run's previews have, and what a step is prepared for."""

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
def test_a_known_relation_has_ours(relation):
    found = prompts(load(relation))
    assert len(found) == len(set(found)) == 8
    subjects, objects = zip(*(prompt.split(" <R> ") for prompt in found), strict=True)
    assert len(set(subjects)) == len(set(objects)) == 8


def test_those_of_hug():
    assert prompts(load("hug"))[:3] == ("otter <R> teapot", "robot <R> astronaut", "bear <R> fox")


def test_another_relation_has_its_exemplars():
    c = settings.get_config()
    c.relation = "juggling"
    assert prompts(c) == tuple(f"cat <R> {n} dogs" for n in range(8))


def test_the_miniature_has_its_own():
    c = load("miniature")
    assert len(prompts(c)) == 16
    assert prompts(c)[0] == "green heart <R> blue triangle"


@pytest.mark.parametrize("model", [settings.SD15, settings.MINIATURE])
@pytest.mark.parametrize("mine", [("owl <R> fox",), ()])
def test_the_users_are_kept_on_every_model(model, mine):
    c = load("hug")
    c.model, c.preview_prompts = model, mine
    assert prompts(c) == mine


def test_runs_of_one_job_have_their_own(config):
    runs = ({"relation": "hug"}, {"relation": "juggling"}, {"seed": 1, "preview_prompts": ["dog <R> cat"]})
    job = prepare.prepare(prepare.settle(changed(config, preview_prompts=None, runs=runs)))
    found = [run.config.preview_prompts for run in job.runs]
    assert found == [prompts(load("hug")), ("cat <R> dog",) * 3, ("dog <R> cat",)]


def test_other_readings_of_the_papers_reach_the_step(config):
    published = prepare.prepare(prepare.settle(config)).step_config
    assert (published.adds_inverse, published.in_epochs, published.vocabulary_negatives) == (False, False, 0)
    others = {"inverse_prompts": "add", "exemplar_draws": "epochs", "negatives": "vocabulary"}
    job = prepare.prepare(prepare.settle(changed(config, **others)))
    found = job.step_config
    assert (found.adds_inverse, found.in_epochs, found.vocabulary_negatives) == (True, True, 16)
    assert found.samples_at_once == 2 * published.samples_at_once == 4
    # Of the tiny vocabulary's words, "on", "top" and "of" are relation words, and "photo" is a stop word.
    assert set(job.data.vocabulary[0].tolist()) == {*job.tokenizer.word_ids("cat"), *job.tokenizer.word_ids("dog")}
