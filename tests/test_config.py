import dataclasses

import pytest
from config_files import load
from places import CONFIGS

from reversion_jax import config as settings
from reversion_jax.data.relations import RELATIONS
from reversion_jax.weights import own_settings


def test_each_relation_of_the_benchmark_has_a_config():
    others = {"miniature", "ten_relations", "evaluation", "benchmark"}
    assert {path.stem for path in CONFIGS.glob("*.py")} == {*RELATIONS, *others}


@pytest.mark.parametrize("name", RELATIONS)
def test_default_settings_are_those_of_the_published_run(name):
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
    assert (c.inverse_share, c.suppressor_sigma_px) == (0.25, 2.0)
    assert c.verb_weight == (0.2 if name in ("on", "inside", "back2back", "hanging_from") else 0.8)
    assert c.preview_prompts is None  # so the prompts come from data/prompts.json; see tests/training/test_prepare.py


def test_the_config_of_ten_relations_equals_the_ten_configs():
    c = load("ten_relations")
    runs = settings.each_run(settings.settle(c))
    assert tuple(runs) == RELATIONS
    for name, run in runs.items():
        assert run == settings.settle(load(name))


def test_settings_that_the_user_leaves_open_come_from_the_miniature_model():
    c = load("hug")
    c.model = settings.MINIATURE
    c = settings.settle(c, own_settings.read(c.model))
    assert (c.resolution, c.steps, c.exemplars, c.suppressor_sigma_px) == (64, 400, "drawn", 0.25)
    assert (c.batch_size, c.accumulation, c.learning_rate, c.samples_at_once) == (8, 1, 3e-3, 40)
    assert (c.prepositions, c.verbs, c.stop_words) == ("miniature_prepositions", "miniature_verbs", "stop_words")
    assert (c.sample_steps, c.guidance_scale, c.sample_batch, c.judged_prompts) == (20, 3, 16, 64)
    assert (c.checkpoint_every_steps, c.preview_every_steps, len(c.preview_prompts)) == (100, 200, 16)


def test_a_config_of_version_0_3_keeps_its_meaning():
    c = load("hug")
    c.batch_size, c.accumulation, c.runs_at_once = 4, 2, 3
    c = settings.settle(c)
    assert (c.batch_size, c.accumulation, c.samples_at_once) == (4, 2, 12)


def test_a_sample_has_two_prompts_only_if_a_run_adds_inverse_prompts():
    c = load("hug")
    assert settings.prompts_per_sample(settings.settle(c)) == 1
    c.inverse_prompts = "add"
    assert settings.prompts_per_sample(settings.settle(c)) == 2
    c.runs = ({"method": "reversion"}, {"inverse_share": 0.0})
    assert settings.prompts_per_sample(settings.settle(c)) == 1
    c.runs = (*c.runs, {"seed": 1})
    assert settings.prompts_per_sample(settings.settle(c)) == 2


def test_the_comparison_of_inverse_prompts_has_equal_shares_and_equal_work():
    """With inverse_share 0.5, the expected loss is the same if inverse prompts replace prompts or are added."""
    c = load("evaluation", "inverse")
    methods = dict(c.evaluation.methods)
    assert (c.inverse_share, methods["replaced"]) == (0.5, {})
    assert methods["added"] == {"inverse_prompts": "add"}
    assert methods["replaced, equal work"] == {"steps": 2 * c.steps}


def test_settings_of_the_user_are_kept():
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
def test_an_earlier_method_sets_to_zero_the_settings_of_parts_that_it_lacks(method, off):
    full = dataclasses.asdict(settings.settle(load("hug")))
    c = load("hug")
    c.method = method
    values = dataclasses.asdict(settings.settle(c))
    assert {key for key in full if full[key] != values[key]} == off | {"method"}
    assert all(values[key] == 0 for key in off)


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
        ("weight_shards", 2),  # needs remat
        ("suppressor_sigma_px", -1.0),
        ("negatives", "words"),
        ("inverse_prompts", "both"),
        ("exemplar_draws", "shuffled"),
        ("suppressor_target", "latents"),
    ],
)
def test_an_error_about_a_bad_value_names_the_setting(key, value):
    c = load("hug")
    c[key] = value
    with pytest.raises(ValueError, match=f"config.{key}=") as error:
        settings.settle(c)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "key",
    ["learning_rate", "weight_decay", "denoise_weight", "control_weight", "guidance_scale", "suppressor_sigma_px"],
)
def test_numbers_that_are_negative_or_not_finite_are_refused(key, value):
    c = load("hug")
    c[key] = value
    with pytest.raises(ValueError, match=rf"config\.{key}={value}: must (not be negative|be a number, and finite)"):
        settings.settle(c)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adam_b1": 2.0}, r"config\.adam_b1=2.0: must be at least 0, and below 1"),
        ({"adam_b2": 1.0}, r"config\.adam_b2=1.0: must be"),
        ({"adam_eps": 0.0}, r"config\.adam_eps=0.0: must be positive"),
        ({"temperature": float("nan")}, r"config\.temperature=nan: must be a number"),
        ({"denoise_weight": 0.0, "control_weight": 0.0}, "are both 0: nothing would be learned"),
        ({"clip_skip": -1}, r"config\.clip_skip=-1: must not be negative"),
        ({"resize": "stretch"}, r"config\.resize='stretch': use one of squash, crop, pad"),
        ({"prediction_type": "v"}, r"config\.prediction_type='v': use one of epsilon, v_prediction"),
    ],
)
def test_settings_out_of_their_range_are_refused(values, message):
    c = load("hug")
    c.update(values)
    with pytest.raises(ValueError, match=message):
        settings.settle(c)


def test_an_unknown_setting_is_refused_with_a_suggestion():
    c = load("hug").unlock()
    c.learning_speed = 1.0
    with pytest.raises(ValueError, match=r"no setting learning_speed: did you mean learning_rate\?"):
        settings.settle(c)


def test_settling_settled_settings_again_changes_nothing():
    settled = settings.settle(load("hug"))
    assert settings.settle(settled) == settled
    assert settings.from_dict(dataclasses.asdict(settled) | {"of_another_version": 1}) == settled
    with pytest.raises(dataclasses.FrozenInstanceError):
        settled.steps = 5
