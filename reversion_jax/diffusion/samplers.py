"""Samplers: functions (denoiser, noise, schedule, steps, keys, start) -> clean latents [N, H, W, C].

    denoiser  the model, (latents [N, H, W, C], timesteps [N]) -> output [N, H, W, C]. The output is noise or velocity,
              as schedule.prediction_type says. The latents have the model's scale, sqrt(a) clean + sqrt(1 - a) noise.
    noise     unit Gaussian [N, H, W, C]; the sampler scales it to its first noise level
    steps     number of steps, each from one noise level to the next; ValueError if the schedule has fewer timesteps
    keys      one random key per image, [N], for samplers that add noise; the other samplers take None. Step i draws
              from fold_in(key, i), so an image does not depend on the batch that it is drawn in.
    start     where to begin; image to image begins with a picture and makes fewer steps

Samplers do not depend on models or prompts. Each sampler reproduces the diffusers scheduler of the same name up to
rounding, including its peculiarities. `a` is the cumulative alpha. Sigma is the ratio of noise to signal, sqrt((1 - a)
/ a), which is the noise level of the variance-exploding form x = clean + sigma noise (Karras et al., 2022,
arXiv:2206.00364).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from reversion_jax.diffusion.noise import Keys, draw_noise
from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.diffusion.start import FROM_NOISE, Start

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
Sampler = Callable[[Denoiser, jax.Array, Schedule, int, Keys | None, Start], jax.Array]
_Level = tuple[jax.Array, ...]  # the input of one step: its timestep, then values of its noise level; all are scalars
_Carry = TypeVar("_Carry")  # what one step passes to the next


AUTO = "auto"  # the sampler that the model's own files ask for, see own_sampler.py


def check(name: str) -> None:
    """Raises ValueError unless `name` is "auto" or the name of a sampler."""
    if name != AUTO:
        get(name)


def get(name: str) -> Sampler:
    """Returns the sampler with this name. Raises ValueError, which lists all names, if no sampler has it."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is unknown: use one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def ddim(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Samples by deterministic DDIM (Song et al., 2020, arXiv:2010.02502, eq. 12 with eta = 0)."""

    def step(x: jax.Array, level: _Level) -> tuple[jax.Array, None]:
        timestep, alpha, next_alpha = level
        output = _evaluate(denoiser, x, timestep)
        return _ddim_step(x, output, alpha, next_alpha, schedule, schedule.clip_sample), None

    levels = start.kept(schedule.levels(steps))
    alpha = levels.alphas[0]
    return _scan(step, start.latents(noise, np.sqrt(alpha), np.sqrt(1 - alpha)), levels)


def pndm(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Samples by PLMS, the linear multistep part of PNDM (Liu et al., 2022, arXiv:2202.09778, eqs. 9, 12).

    PLMS calls the model steps + 1 times, because the first step is made twice. The repeated step uses the mean of the
    model's outputs at the start and at the end of the step. As in diffusers, the model's outputs at several noise
    levels are combined without conversion, even if they are velocities, which depend on the noise level.
    """
    calls = start.kept(np.repeat(np.arange(steps), 1 + (np.arange(steps) == 1)))  # each call's step: 0, 1, 1, 2, 3, ...
    timesteps, alphas, next_alphas = (array[calls] for array in schedule.levels(steps))
    again = np.arange(len(calls)) == 1  # the call that repeats the first step, from the first level to the second
    alphas[again] = schedule.alphas_cumprod[timesteps[again] + schedule.num_train_timesteps // steps]
    next_alphas[again] = schedule.alphas_cumprod[timesteps[again]]
    # One row per call: Adams-Bashforth weights of rising order, newest output first. The second row of weights repeats
    # the first step by the trapezoidal rule.
    weights = np.array([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0]])
    last = np.array([[55, -59, 37, -9]]) / 24
    first = start.latents(noise, np.sqrt(alphas[0]), np.sqrt(1 - alphas[0]))
    weights = np.concatenate([weights, np.repeat(last, steps, axis=0)])[: len(calls)].astype(np.float32)

    def step(carry: tuple[jax.Array, jax.Array], level: _Level) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, past = carry
        timestep, alpha, next_alpha, again, weights = level  # weights [4]
        outputs = jnp.concatenate([_evaluate(denoiser, x, timestep)[None], past])
        mixed = jnp.sum(weights[:, None, None, None, None] * outputs, axis=0)
        x = _ddim_step(jnp.where(again, first, x), mixed, alpha, next_alpha, schedule, clip=False)
        return (x, jnp.where(again, past, outputs[:3])), None

    past = jnp.zeros((3, *noise.shape), noise.dtype)
    return _scan(step, (first, past), (timesteps, alphas, next_alphas, again, weights))[0]


def euler(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Samples by Euler's method on the probability flow ODE (Karras et al., 2022, Algorithm 1, lines 3-5)."""

    def step(x: jax.Array, level: _Level) -> tuple[jax.Array, None]:
        timestep, sigma, next_sigma = level
        return x + (next_sigma - sigma) * _slope(denoiser, x, timestep, sigma, schedule), None

    return _scan(step, *_variance_exploding(noise, schedule, steps, start))


def euler_ancestral(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Samples by Euler steps to a sigma below the next level; after each step, fresh noise raises sigma to that level.

    These steps are those of DDPM (Song et al., 2020, arXiv:2010.02502, eq. 16 with eta = 1), written in terms of sigma
    as in k-diffusion.
    """

    def step(x: jax.Array, level: tuple[jax.Array, _Level]) -> tuple[jax.Array, None]:
        assert keys is not None
        i, (timestep, sigma, next_sigma) = level
        down = next_sigma**2 / sigma
        up = next_sigma * jnp.sqrt(1 - (next_sigma / sigma) ** 2)
        fresh = draw_noise(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], x.dtype), keys)
        return x + (down - sigma) * _slope(denoiser, x, timestep, sigma, schedule) + up * fresh, None

    first, levels = _variance_exploding(noise, schedule, steps, start)
    return _scan(step, first, (start.kept(np.arange(steps)), levels))


def dpmpp_2m(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Samples by DPM-Solver++(2M) (Lu et al., 2022, arXiv:2211.01095, Algorithm 2).

    The last step, to sigma 0, is of first order.
    """
    # With "leading" and "linspace", diffusers counts the clean end, where the last step arrives, as one more timestep.
    timesteps = np.round(schedule.timesteps(steps, spare=int(schedule.timestep_spacing != "trailing")))
    levels = timesteps.astype(np.int32), schedule.sigmas_at(timesteps)
    return _dpmpp_2m(denoiser, noise, schedule, levels, start)


def dpmpp_2m_karras(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Samples by DPM-Solver++(2M) at the noise levels of Karras et al. (2022, eq. 5); ignores timestep_spacing."""
    sigmas = schedule.karras_sigmas(steps)
    timesteps = np.round(schedule.timesteps_of(sigmas)).astype(np.int32)
    return _dpmpp_2m(denoiser, noise, schedule, (timesteps, sigmas), start)


def _dpmpp_2m(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, levels: tuple[np.ndarray, np.ndarray], start: Start
) -> jax.Array:
    """Runs DPM-Solver++(2M) over levels = (timesteps [steps], sigmas [steps]); the last step goes to sigma 0."""
    timesteps, sigmas = start.kept(levels)
    h = np.diff(-np.log(sigmas))
    # The weight 1 / (2 r) of the second-order term is 0 at the first step, which has no past output, and at the
    # last step, where h is infinite.
    extrapolation = np.zeros(len(sigmas), np.float32)
    extrapolation[1:-1] = h[1:] / (2 * h[:-1])

    def step(carry: tuple[jax.Array, jax.Array], level: _Level) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, past = carry
        timestep, sigma, next_sigma, extrapolation = level
        (signal, spread), (next_signal, next_spread) = _variance_preserving(sigma), _variance_preserving(next_sigma)
        clean, _ = _clean_and_noise(_evaluate(denoiser, x, timestep), x, signal, spread, schedule)
        d = clean + extrapolation * (clean - past)
        x = next_spread / spread * x + next_signal * (1 - next_sigma / sigma) * d
        return (x, clean), None

    signal = 1 / np.sqrt(sigmas[0] ** 2 + 1)
    first = start.latents(noise, signal, signal * sigmas[0])
    return _scan(step, (first, jnp.zeros_like(first)), (*_sigma_levels(timesteps, sigmas), extrapolation))[0]


def _scan(step: Callable[[_Carry, Any], tuple[_Carry, None]], carry: _Carry, levels: Any) -> _Carry:
    """Runs `step` over levels, a tree of arrays [steps, ...], and returns the carry after the last step."""
    return jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, levels))[0]


def _evaluate(denoiser: Denoiser, x: jax.Array, timestep: jax.Array) -> jax.Array:
    """Returns the model's output [N, H, W, C] for latents x [N, H, W, C], all at one timestep []."""
    return denoiser(x, jnp.full(x.shape[:1], timestep)).astype(x.dtype)


def _clean_and_noise(
    output: jax.Array, x: jax.Array, signal: jax.Array, spread: jax.Array, schedule: Schedule
) -> tuple[jax.Array, jax.Array]:
    """Splits x = signal clean + spread noise with the model's output, and returns clean and noise, [N, H, W, C] each.

    output, x: [N, H, W, C]. signal, spread: scalars with signal² + spread² = 1.
    """
    if schedule.prediction_type == "v_prediction":
        return signal * x - spread * output, signal * output + spread * x
    return (x - spread * output) / signal, output


def _ddim_step(
    x: jax.Array, output: jax.Array, alpha: jax.Array, next_alpha: jax.Array, schedule: Schedule, clip: bool
) -> jax.Array:
    """Returns the latents at the next level, from x and the model's output, all [N, H, W, C]; alphas are scalars."""
    clean, noise = _clean_and_noise(output, x, jnp.sqrt(alpha), jnp.sqrt(1 - alpha), schedule)
    if clip:
        clean = jnp.clip(clean, -1, 1)
    return jnp.sqrt(next_alpha) * clean + jnp.sqrt(1 - next_alpha) * noise


def _variance_preserving(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the scales of signal and noise, two scalars, in variance-preserving latents at a scalar sigma."""
    signal = 1 / jnp.sqrt(sigma**2 + 1)
    return signal, sigma * signal


def _slope(denoiser: Denoiser, x: jax.Array, timestep: jax.Array, sigma: jax.Array, schedule: Schedule) -> jax.Array:
    """Returns dx / dsigma of the probability flow ODE, [N, H, W, C]; it equals the noise in x = clean + sigma noise."""
    signal, spread = _variance_preserving(sigma)
    preserving = signal * x
    return _clean_and_noise(_evaluate(denoiser, preserving, timestep), preserving, signal, spread, schedule)[1]


def _sigma_levels(timesteps: np.ndarray, sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the timesteps, and the sigmas before and after each step, [steps] each. The last sigma is 0."""
    sigmas = np.append(sigmas, 0).astype(np.float32)
    return timesteps, sigmas[:-1], sigmas[1:]


def _variance_exploding(
    noise: jax.Array, schedule: Schedule, steps: int, start: Start
) -> tuple[jax.Array, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns the first x = clean + sigma noise, [N, H, W, C], and the `_sigma_levels`; timesteps can be fractions."""
    timesteps = schedule.timesteps(steps)
    levels = start.kept(_sigma_levels(timesteps.astype(np.float32), schedule.sigmas_at(timesteps)))
    first = levels[1][0]
    # With the spacing "leading", sampling begins below the highest noise level. At this level, diffusers scales the
    # noise to the variance of noisy latents.
    scale = np.sqrt(first**2 + 1) if schedule.timestep_spacing == "leading" else first
    return scale * noise if start.clean is None else start.latents(noise, 1, first), levels


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "pndm": pndm,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_karras": dpmpp_2m_karras,
}
