import pytest
from config_files import load
from places import CONFIGS

from reversion_jax import config as settings
from reversion_jax.data.relations import RELATIONS


def test_one_config_for_each_of_the_benchmarks_relations():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {*RELATIONS, "miniature", "ten_relations", "evaluation"}


@pytest.mark.parametrize("name", RELATIONS)
def test_full_size_is_the_published_run(name):
    c = settings.settle(load(name))
    assert (c.relation, c.exemplars) == (name, f"exemplars/{name}")
    assert (c.steps, c.batch_size, c.accumulation, c.resolution) == (3000, 2, 4, 512)
    assert (c.learning_rate, c.weight_decay, c.adam_b1, c.adam_b2, c.adam_eps) == (
        2e-3,
        0.01,
        0.9,
        0.999,
        1e-8,
    )
    assert (c.denoise_weight, c.control_weight, c.temperature, c.positives_per_sample) == (1, 0.01, 0.07, 4)
    assert (c.importance, c.initialiser, c.sample_steps, c.guidance_scale) == (0.5, "and", 50, 7.5)
    assert (c.inverse_share, c.suppressor_sigma_px) == (0.5, 2.0)
    assert c.verb_weight == (0.2 if name in ("on", "inside", "back2back", "hanging_from") else 0.8)
    assert c.preview_prompts
    assert all("<R>" in prompt for prompt in c.preview_prompts)


def test_ten_relations_are_the_ten_configs():
    c = load("ten_relations")
    assert [run["relation"] for run in c.runs] == RELATIONS
    for name, run in settings.each_run(c).items():
        assert run.to_json() == settings.settle(load(name)).to_json()


def test_the_miniature_gets_sizes_that_suit_it():
    c = load("hug")
    c.model = settings.MINIATURE
    c = settings.settle(c)
    assert (c.resolution, c.steps, c.exemplars, c.suppressor_sigma_px) == (64, 400, "", 0.25)


def test_what_is_given_stays():
    c = load("hug")
    c.steps, c.resolution, c.suppressor_sigma_px, c.exemplars = 7, 256, 0.0, "mine"
    c = settings.settle(c)
    assert (c.steps, c.resolution, c.suppressor_sigma_px, c.exemplars) == (7, 256, 0.0, "mine")


@pytest.mark.parametrize(
    ("method", "off"),
    [
        ("reversion", {"verb_weight", "inverse_share", "suppressor_sigma_px"}),
        ("textual_inversion", {"control_weight", "importance", "inverse_share", "suppressor_sigma_px"}),
    ],
)
def test_methods_are_values(method, off):
    full = settings.settle(load("hug"))
    c = load("hug")
    c.method = method
    c = settings.settle(c)
    assert {key for key in full if full[key] != c[key]} == off | {"method"}
    assert all(c[key] == 0 for key in off)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method", "dreambooth"),
        ("steps", 0),
        ("seed", -1),
        ("relation", "carved by"),
        ("inverse_share", 1.5),
        ("importance", 1.0),
        ("temperature", 0.0),
        ("weight_shards", 2),  # without remat
        ("suppressor_sigma_px", -1.0),
        ("negatives", "words"),
        ("suppressor_target", "latents"),
    ],
)
def test_bad_values_are_named(key, value):
    c = load("hug")
    c[key] = value
    with pytest.raises(ValueError, match=f"config.{key}=") as error:
        settings.settle(c)
    assert "\n" not in str(error.value)
