"""Checks the schedule, guidance and DDIM against their formulas. test_recorded.py compares all three with diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from reversion_jax.diffusion import guidance
from reversion_jax.diffusion.samplers import ddim
from reversion_jax.diffusion.schedule import Schedule


def test_alphas_of_sd15_are_the_published_alphas():
    alphas = Schedule().alphas_cumprod
    assert alphas.shape == (1000,)
    assert alphas.dtype == np.float32
    # The published values at the first and the last timestep of the scaled linear schedule.
    np.testing.assert_allclose(alphas[[0, 999]], [0.99915, 0.00466], rtol=1e-3)
    assert (np.diff(alphas) < 0).all()
    with pytest.raises(ValueError, match="read-only"):
        alphas[0] = 1


def test_alphas_of_linear_betas_are_cumulative_products():
    schedule = Schedule(beta_schedule="linear", beta_start=0.1, beta_end=0.3, num_train_timesteps=3)
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], rtol=1e-6)


def test_add_noise_takes_any_number_of_leading_axes():
    schedule = Schedule()
    latents, noise = tiny.noise(0, (2, 3, 4, 4, 4)), tiny.noise(1, (2, 3, 4, 4, 4))
    timesteps = np.array([[0, 10, 999], [5, 500, 7]])
    found = schedule.add_noise(latents, noise, timesteps)
    alpha = schedule.alphas_cumprod[500]
    wanted = np.sqrt(alpha) * latents[1, 1] + np.sqrt(1 - alpha) * noise[1, 1]
    np.testing.assert_allclose(found[1, 1], wanted, rtol=1e-5)


def test_an_absent_scheduler_key_has_the_default_of_the_scheduler_class():
    assert Schedule.from_json({"_class_name": "PNDMScheduler"}).set_alpha_to_one is False
    ddim_default = Schedule.from_json({"_class_name": "DDIMScheduler"})
    assert ddim_default.set_alpha_to_one is True
    assert (ddim_default.beta_schedule, ddim_default.steps_offset) == ("linear", 0)


def test_an_absent_timestep_spacing_means_leading_for_every_scheduler_class():
    assert Schedule.from_json({"_class_name": "EulerDiscreteScheduler"}).timestep_spacing == "leading"


def test_prediction_type_and_timestep_spacing_are_read_and_written():
    schedule = Schedule(prediction_type="v_prediction", timestep_spacing="trailing")
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_timesteps_follow_the_spacing():
    timesteps = {name: Schedule(timestep_spacing=name).timesteps for name in ("leading", "trailing", "linspace")}
    assert timesteps["leading"](4).tolist() == [751, 501, 251, 1]
    assert timesteps["trailing"](4).tolist() == [999, 749, 499, 249]
    assert timesteps["linspace"](3).tolist() == [999, 499.5, 0]
    assert timesteps["leading"](4, spare=1).tolist() == [801, 601, 401, 201]
    # If timesteps were 1000 / 61 apart, floating-point rounding would give a 62nd timestep.
    assert len(timesteps["trailing"](61)) == 61


def test_timesteps_are_recovered_from_their_sigmas():
    schedule = Schedule()
    np.testing.assert_allclose(schedule.timesteps_of(schedule.sigmas[[0, 10, 999]]), [0, 10, 999])
    np.testing.assert_allclose(schedule.karras_sigmas(5)[[0, -1]], schedule.sigmas[[-1, 0]])


def test_the_velocity_target_gives_back_the_latents():
    schedule = Schedule(prediction_type="v_prediction")
    latents, noise, timesteps = tiny.noise(0, (3, 2, 2, 1)), tiny.noise(1, (3, 2, 2, 1)), np.array([0, 500, 999])
    noisy, velocity = (f(latents, noise, timesteps) for f in (schedule.add_noise, schedule.training_target))
    alphas = schedule.alphas_cumprod[timesteps][:, None, None, None]
    np.testing.assert_allclose(np.sqrt(alphas) * noisy - np.sqrt(1 - alphas) * velocity, latents, atol=1e-6)
    assert Schedule().training_target(latents, noise, timesteps) is noise


def test_each_level_has_the_alphas_of_its_step_and_of_the_next_step():
    levels = Schedule().levels(4)
    alphas = Schedule().alphas_cumprod
    assert levels.timesteps.tolist() == [751, 501, 251, 1]
    np.testing.assert_array_equal(levels.alphas, alphas[[751, 501, 251, 1]])
    np.testing.assert_array_equal(levels.next_alphas, alphas[[501, 251, 1, 0]])
    assert Schedule(set_alpha_to_one=True).levels(4).next_alphas[-1] == 1


@pytest.mark.parametrize("steps", [0, -1, 1000, 1001])
def test_numbers_of_steps_that_the_schedule_does_not_have_are_refused(steps):
    with pytest.raises(ValueError, match="steps="):
        Schedule().levels(steps)


def test_a_spare_timestep_reduces_the_largest_number_of_steps_by_one():
    schedule = Schedule(timestep_spacing="linspace")
    assert schedule.timesteps(1000).tolist() == [*schedule.timesteps(999, spare=1).tolist(), 0]
    with pytest.raises(ValueError, match=r"between 1 and the schedule's 999$"):
        schedule.timesteps(1000, spare=1)


def test_ddim_with_the_true_noise_recovers_the_latents():
    schedule = Schedule(set_alpha_to_one=True)
    clean, noise = tiny.noise(0, (2, 4, 4, 4)), tiny.noise(1, (2, 4, 4, 4))
    start = schedule.add_noise(clean, noise, np.full(2, schedule.levels(7).timesteps[0]))
    found = jax.jit(lambda x: ddim(lambda x, t: jnp.asarray(noise), x, schedule, 7, None))(start)
    np.testing.assert_allclose(found, clean, atol=1e-4)


def test_ddim_clips_only_if_the_schedule_has_clip_sample():
    def denoiser(x, timesteps):
        return jnp.zeros_like(x)

    start = jnp.full((1, 2, 2, 1), 3.0)
    assert ddim(denoiser, start, Schedule(clip_sample=True, set_alpha_to_one=True), 2, None).max() <= 1
    assert ddim(denoiser, start, Schedule(set_alpha_to_one=True), 2, None).max() > 3


def test_guidance_computes_conditional_and_unconditional_prediction_in_one_batch():
    batches = []

    def predict(latents, timesteps, context):
        batches.append(latents.shape[0])
        return latents * context.mean((1, 2))[:, None, None, None] + timesteps[:, None, None, None]

    latents = tiny.noise(0, (2, 4, 4, 1))
    denoise = guidance.guided_denoiser(predict, jnp.ones((2, 3, 5)), jnp.full((2, 3, 5), 2.0), 7.5)
    np.testing.assert_allclose(denoise(latents, jnp.array([1.0, 2.0]))[1], latents[1] * (1 + 7.5) + 2, atol=1e-5)
    assert batches == [4]


def test_guidance_with_scale_one_gives_the_conditional_prediction():
    a, b = tiny.noise(0, (3,)), tiny.noise(1, (3,))
    np.testing.assert_allclose(guidance.combine(a, b, 1.0), b, rtol=1e-5)
    np.testing.assert_allclose(guidance.combine(a, b, 0.0), a)
