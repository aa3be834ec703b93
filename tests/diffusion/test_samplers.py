"""Checks every sampler against diffusers' schedulers, if diffusers is installed, and against known properties."""

import functools
import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from reversion_jax.diffusion import own_sampler, samplers
from reversion_jax.diffusion.noise import Between
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.diffusion.start import Start, skipped_steps

SHAPE = (2, 4, 4, 3)
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction")
# The scheduler class of each sampler in diffusers, and its settings.
CLASSES = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
}
# Upper bound of the relative errors. The measured errors are 1e-7 to 2e-6.
TOLERANCE = 1e-5


def keys(seeds):
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


@functools.partial(tiny.quick_jit, static_argnums=(0, 1, 3, 4, 7))
def draw(name, denoiser, noise, schedule, steps, seeds, clean=None, skipped=0):
    return samplers.get(name)(denoiser, noise, schedule, steps, keys(seeds), Start(clean, skipped))


def formula(latents, timesteps):
    """Replaces a network by a formula that is not linear and differs for every timestep and image.

    The arguments are NumPy or JAX arrays.
    """
    levels = timesteps[:, None, None, None] / 1000
    images = np.arange(1.0, 1 + len(latents), dtype=np.float32)[:, None, None, None]
    return (0.8 + 0.1 * images) * latents * (1 + 0.3 * levels) / (1 + 0.1 * latents**2) + 0.2 * images * levels


@jax.jit
def ancestral_noise(seeds):
    """Returns the noise [25, N, H, W, C] that steps 0 to 24 of ancestral sampling add to images with these seeds."""
    draw = lambda i, key: jax.random.normal(jax.random.fold_in(key, i), SHAPE[1:])
    return jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(jnp.arange(25), keys(seeds))


@pytest.fixture(scope="module")
def diffusers():
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("diffusers")
    module.torch = torch
    return module


def scheduler(diffusers, name, schedule):
    kind, settings = CLASSES[name]
    return getattr(diffusers, kind).from_config({**schedule.to_json(), **settings})


def theirs(diffusers, name, noise, schedule, steps, seeds, monkeypatch, clean=None, strength=1.0):
    torch = diffusers.torch
    sampler = scheduler(diffusers, name, schedule)
    sampler.set_timesteps(steps)
    timesteps = sampler.timesteps
    latents = torch.from_numpy(noise) * sampler.init_noise_sigma
    if clean is not None:
        pipeline = types.SimpleNamespace(scheduler=sampler)
        timesteps, _ = diffusers.StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, "cpu")
        latents = sampler.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), timesteps[:1].repeat(len(noise)))
    if name == "euler_ancestral":
        fresh = iter(np.array(ancestral_noise(np.array(seeds))[steps - len(timesteps) : steps]))
        module = inspect.getmodule(type(sampler))
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(next(fresh)))
    for timestep in timesteps:
        scaled = sampler.scale_model_input(latents, timestep).numpy()
        output = formula(scaled, np.full(len(noise), timestep, np.float32))
        latents = sampler.step(torch.from_numpy(output), timestep, latents).prev_sample
    return latents.numpy()


# NumPy 2 warns of the way in which diffusers makes arrays from tensors.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("steps", [4, 10, 25])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_sampled_latents_equal_those_of_diffusers(name, prediction, spacing, steps, diffusers, monkeypatch):
    schedule = Schedule(prediction_type=prediction, timestep_spacing=spacing)
    noise, seeds = tiny.noise(0, SHAPE), [3, 4]
    wanted = theirs(diffusers, name, noise, schedule, steps, seeds, monkeypatch)
    found = draw(name, formula, noise, schedule, steps, np.array(seeds))
    assert tiny.error(found, wanted) < TOLERANCE


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_sampled_latents_with_another_schedule_equal_those_of_diffusers(name, diffusers, monkeypatch):
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    schedule = Schedule(**betas, steps_offset=0, set_alpha_to_one=True, clip_sample=True)
    noise, seeds = tiny.noise(0, SHAPE), [3, 4]
    wanted = theirs(diffusers, name, noise, schedule, 6, seeds, monkeypatch)
    assert tiny.error(draw(name, formula, noise, schedule, 6, np.array(seeds)), wanted) < TOLERANCE


# At strength 0.9, PNDM begins at the step that it repeats. At 0.35, 3.5 of 10 steps are rounded down. At 1, no step is
# skipped.
BEGINNINGS = [
    *(("epsilon", "leading", strength) for strength in (0.1, 0.35, 0.9, 1.0)),
    *(("epsilon", "trailing", 0.6), ("epsilon", "linspace", 0.6), ("v_prediction", "leading", 0.6)),
]


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(("prediction", "spacing", "strength"), BEGINNINGS)
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_image_to_image_gives_the_latents_of_diffusers(name, prediction, spacing, strength, diffusers, monkeypatch):
    schedule = Schedule(prediction_type=prediction, timestep_spacing=spacing)
    noise, clean, seeds = tiny.noise(0, SHAPE), tiny.noise(1, SHAPE), [3, 4]
    wanted = theirs(diffusers, name, noise, schedule, 10, seeds, monkeypatch, clean, strength)
    skipped = skipped_steps(10, strength)
    found = draw(name, formula, noise, schedule, 10, np.array(seeds), clean, skipped)
    assert tiny.error(found, wanted) < TOLERANCE


def test_a_strength_keeps_as_many_steps_as_in_diffusers(diffusers):
    pipeline = types.SimpleNamespace(scheduler=scheduler(diffusers, "ddim", Schedule()))
    for steps in (1, 4, 20, 50):
        pipeline.scheduler.set_timesteps(steps)
        for strength in np.arange(1, 101) / 100:  # in floating point, 0.58 x 50 is a little less than 29
            kept = diffusers.StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, strength, "cpu")[1]
            if kept:
                assert skipped_steps(steps, strength) == steps - kept
            else:
                with pytest.raises(ValueError, match="is less than one step: raise strength or steps"):
                    skipped_steps(steps, strength)


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan"), float("inf")])
def test_strengths_out_of_range_are_refused(strength):
    with pytest.raises(
        ValueError, match=r"^strength=.*: must be above 0, and at most 1, which redraws the whole picture$"
    ):
        skipped_steps(20, strength)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_and_sigmas_equal_those_of_diffusers(spacing, diffusers):
    schedule = Schedule(timestep_spacing=spacing)
    whole, fractional = scheduler(diffusers, "ddim", schedule), scheduler(diffusers, "euler", schedule)
    # 61 steps are left out: by a rounding error, diffusers makes 62 timesteps for 61 "trailing" steps.
    for steps in (*range(1, 61), 100, 250, 999):
        whole.set_timesteps(steps)
        fractional.set_timesteps(steps)
        timesteps = schedule.timesteps(steps)
        np.testing.assert_array_equal(schedule.levels(steps).timesteps, whole.timesteps)
        np.testing.assert_array_equal(timesteps.astype(np.float32), fractional.timesteps)
        np.testing.assert_allclose(schedule.sigmas_at(timesteps), fractional.sigmas[:-1], rtol=2e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_karras_levels_equal_those_of_diffusers(diffusers):
    schedule = Schedule()
    theirs = scheduler(diffusers, "dpmpp_2m_karras", schedule)
    for steps in (*range(1, 21), 25, 30, 50, 100):
        theirs.set_timesteps(steps)
        sigmas = schedule.karras_sigmas(steps)
        np.testing.assert_allclose(sigmas, theirs.sigmas[:-1], rtol=2e-5)
        np.testing.assert_array_equal(np.round(schedule.timesteps_of(sigmas)), theirs.timesteps)


def test_the_training_target_equals_that_of_diffusers(diffusers):
    torch = diffusers.torch
    latents, noise, timesteps = tiny.noise(0, (4, 3, 3, 2)), tiny.noise(1, (4, 3, 3, 2)), np.array([0, 10, 500, 999])
    schedule = Schedule(prediction_type="v_prediction")
    arguments = [torch.from_numpy(x) for x in (latents, noise, timesteps)]
    wanted = scheduler(diffusers, "ddim", schedule).get_velocity(*arguments)
    np.testing.assert_allclose(schedule.training_target(latents, noise, timesteps), wanted, atol=2e-6)
    np.testing.assert_array_equal(Schedule().training_target(latents, noise, timesteps), noise)


def output(latents, clean, timesteps, schedule):
    """Returns the output of a model that knows the clean latents."""
    sigma = jnp.interp(timesteps, jnp.arange(1000.0), schedule.sigmas.astype(np.float32))[:, None, None, None]
    signal = 1 / jnp.sqrt(1 + sigma**2)
    noise = (latents - signal * clean) / (sigma * signal)
    return noise if schedule.prediction_type == "epsilon" else signal * noise - sigma * signal * clean


# PNDM with velocity prediction is left out, because PNDM mixes velocities of different noise levels, as in diffusers.
EXACT = [(name, kind) for name in samplers.SAMPLERS for kind in PREDICTIONS if (name, kind) != ("pndm", PREDICTIONS[1])]


@pytest.mark.parametrize(("name", "prediction"), EXACT)
def test_samplers_recover_the_latents_if_the_model_knows_them(name, prediction):
    schedule = Schedule(set_alpha_to_one=True, prediction_type=prediction)
    clean = tiny.noise(0, SHAPE)
    found = draw(name, lambda x, t: output(x, clean, t, schedule), tiny.noise(1, SHAPE), schedule, 7, np.arange(2))
    np.testing.assert_allclose(found, clean, atol=1e-5)


# The Karras sampler is left out, because its sigmas fall between timesteps. There the noise and the velocity that this
# denoiser predicts do not agree.
@pytest.mark.parametrize("name", [name for name, kind in EXACT if kind == "v_prediction" and "karras" not in name])
def test_noise_and_velocity_predictions_give_the_same_picture(name):
    found = []
    for prediction in PREDICTIONS:
        schedule = Schedule(set_alpha_to_one=True, prediction_type=prediction, timestep_spacing="linspace")
        denoiser = lambda x, t, schedule=schedule: output(x, jnp.sin(3 * x), t, schedule)
        found.append(draw(name, denoiser, tiny.noise(1, SHAPE), schedule, 10, np.arange(2)))
    assert tiny.error(*found) < 1e-5


MEAN, STD = 0.5, 1.0
# Relative errors after 40 steps, measured when the results of the samplers equalled the results of diffusers. Samplers
# of second order have smaller errors than samplers of first order.
ERRORS = {
    "ddim": 0.0305,
    "pndm": 0.00893,
    "euler": 0.0304,
    "dpmpp_2m": 0.00808,
    "dpmpp_2m_karras": 0.00192,
}


def of_gaussian(latents, timesteps):
    """Returns the optimal noise prediction for latents that are drawn from N(MEAN, STD²)."""
    sigma = jnp.interp(timesteps, jnp.arange(1000.0), Schedule().sigmas.astype(np.float32))[:, None, None, None]
    signal = 1 / jnp.sqrt(1 + sigma**2)
    return sigma * signal * (latents - signal * MEAN) / (signal**2 * (STD**2 + sigma**2))


@pytest.mark.parametrize("name", ERRORS)
def test_the_error_against_the_closed_form_solution_is_as_measured(name):
    schedule = Schedule(timestep_spacing="linspace", set_alpha_to_one=True)
    noise, largest = tiny.noise(0, SHAPE), schedule.sigmas[-1]
    # The first latents, scaled as the sum of clean latents and sigma times noise. Euler multiplies the noise by sigma;
    # the other samplers take the noise as noisy latents.
    start = noise * (largest if name == "euler" else np.sqrt(1 + largest**2))
    wanted = MEAN + (start - MEAN) * STD / np.sqrt(STD**2 + largest**2)
    found = draw(name, of_gaussian, noise, schedule, 40, np.arange(2))
    assert tiny.error(found, wanted) == pytest.approx(ERRORS[name], rel=0.01)


def test_ancestral_sampling_gives_the_right_distribution():
    noise = tiny.noise(0, (2, 32, 32, 4))
    found = draw("euler_ancestral", of_gaussian, noise, Schedule(timestep_spacing="linspace"), 500, np.arange(2))
    # For 8192 numbers, the standard error of the mean is 0.011, and that of the standard deviation is 0.008.
    assert found.mean() == pytest.approx(MEAN, abs=0.035)
    assert found.std() == pytest.approx(STD, abs=0.03)


def test_ancestral_noise_of_an_image_does_not_depend_on_its_batch():
    noise = tiny.noise(0, SHAPE)
    together = draw("euler_ancestral", of_gaussian, noise, Schedule(), 5, np.array([3, 4]))
    swapped = draw("euler_ancestral", of_gaussian, noise[::-1], Schedule(), 5, np.array([4, 3]))
    alone = draw("euler_ancestral", of_gaussian, noise[1:], Schedule(), 5, np.array([4]))
    other = draw("euler_ancestral", of_gaussian, noise, Schedule(), 5, np.array([3, 5]))
    np.testing.assert_allclose(swapped[::-1], together, atol=1e-6)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6)
    np.testing.assert_allclose(other[0], together[0], atol=1e-6)
    assert tiny.error(other[1], together[1]) > 0.1


def test_ancestral_noise_is_interpolated_between_two_keys():
    """The first and the last picture equal the pictures that the first and the last key give alone."""
    noise = np.repeat(tiny.noise(0, SHAPE)[:1], 3, 0)
    way = Between(keys([3, 3, 3]), keys([4, 4, 4]), jnp.array([0, 0.5, 1], jnp.float32))
    walk = lambda noise, keys: samplers.get("euler_ancestral")(of_gaussian, noise, Schedule(), 3, keys)
    found, (first, last) = tiny.quick_jit(lambda: (walk(noise, way), walk(noise[:2], keys([3, 4]))))()
    np.testing.assert_allclose(found[0], first, atol=1e-6)
    np.testing.assert_allclose(found[2], last, atol=1e-6)
    assert min(tiny.error(found[1], end) for end in (first, last)) > 0.1


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_the_compiled_program_does_not_grow_with_the_number_of_steps(name):
    def program(steps):
        call = lambda noise: samplers.get(name)(formula, noise, Schedule(), steps, keys([0, 1]))
        return str(jax.make_jaxpr(call)(jnp.ones(SHAPE)))

    assert program(5).count(" = ") == program(50).count(" = ")


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_single_step_gives_finite_latents(name):
    found = draw(name, formula, tiny.noise(0, SHAPE), Schedule(timestep_spacing="trailing"), 1, np.arange(2))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_samplers_refuse_numbers_of_steps_that_the_schedule_does_not_have(name, spacing, steps):
    with pytest.raises(ValueError, match=r"^steps=.*$"):
        samplers.get(name)(formula, np.ones(SHAPE), Schedule(timestep_spacing=spacing), steps, None)


def test_an_error_about_an_unknown_sampler_names_the_known_samplers():
    with pytest.raises(ValueError, match=r"^sampler 'dpm' is unknown: use one of ddim, pndm, euler, .*$"):
        samplers.get("dpm")


OWN = {
    "PNDMScheduler": ("pndm", "leading"),
    "DDIMScheduler": ("ddim", "leading"),
    "EulerDiscreteScheduler": ("euler", "linspace"),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", "linspace"),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "linspace"),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_models_own_sampler_is_read_from_its_scheduler_file(kind):
    found = own_sampler.OwnSampler.from_json({"_class_name": kind})
    assert (found.name, found.timestep_spacing, found.nearest_to) == (*OWN[kind], "")
    assert own_sampler.OwnSampler.from_json({**Schedule().to_json(), **found.to_json()}).name == found.name
    chosen, schedule = own_sampler.choose("auto", found, Schedule())
    assert (chosen, schedule.timestep_spacing) == OWN[kind]
    # Pictures record the name of the sampler that was used, not "auto". Choosing this name must give the same result.
    assert own_sampler.choose(found.name, found, Schedule()) == (chosen, schedule)
    other = "ddim" if found.name != "ddim" else "euler"
    assert own_sampler.choose(other, found, Schedule()) == (other, Schedule())  # Schedule() has the spacing "leading"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # by diffusers
@pytest.mark.parametrize("kind", OWN)
def test_the_default_spacing_of_a_scheduler_equals_that_of_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, kind)()
    assert scheduler.config.timestep_spacing == own_sampler.OwnSampler.from_json({"_class_name": kind}).timestep_spacing


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [
        ("UniPCMultistepScheduler", "dpmpp_2m"),
        ("DPMSolverSinglestepScheduler", "dpmpp_2m"),
        ("HeunDiscreteScheduler", "euler"),
        ("LMSDiscreteScheduler", "euler"),
        ("DDPMScheduler", "ddim"),
    ],
)
def test_an_unsupported_scheduler_is_replaced_by_the_nearest_sampler(kind, nearest):
    found = own_sampler.OwnSampler.from_json({"_class_name": kind, "timestep_spacing": "trailing"})
    assert found == own_sampler.OwnSampler(nearest, "trailing", kind)


def test_karras_sigmas_in_the_scheduler_file_are_used():
    file = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    found = own_sampler.OwnSampler.from_json(file)
    assert found.name == "dpmpp_2m_karras"
    assert found.to_json() == file
