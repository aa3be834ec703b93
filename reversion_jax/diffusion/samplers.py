"""Samplers: (denoiser, noise, schedule, steps, keys, start) -> clean latents. They know nothing of models or prompts.

    denoiser  (latents [N, H, W, C], timesteps [N]) -> the model's output [N, H, W, C], which is noise or velocity
              by schedule.prediction_type. Its latents have the model's own scale: sqrt(a) clean + sqrt(1 - a) noise.
    noise     unit Gaussian [N, H, W, C]; a sampler scales it as its first level asks
    steps     levels to walk down; ValueError if the schedule has too few
    keys      a key an image, [N], for samplers that add noise: step i draws from fold_in(key, i), so that an image
              is the same in any batch. Unused by the others, which take None.
    start     where to begin; for image to image at a picture, which leaves fewer steps

Each follows diffusers' scheduler of that name, to rounding, quirks included. Sigma is the ratio of noise to signal,
sqrt((1 - a) / a), as Karras et al. (2022, arXiv:2206.00364) write variance-exploding levels.
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
_Level = tuple[jax.Array, ...]  # what one step reads: its timestep [], then numbers of the level, [] each
_Carry = TypeVar("_Carry")  # what a step hands on to the next one


AUTO = "auto"  # the model's own, see own_sampler.py


def check(name: str) -> None:
    """ValueError unless a sampler, or "auto", has this name."""
    if name != AUTO:
        get(name)


def get(name: str) -> Sampler:
    """The sampler of SAMPLERS by name; ValueError lists the known ones."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is unknown (known: {', '.join(SAMPLERS)})")
    return SAMPLERS[name]


def ddim(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Deterministic DDIM (Song et al., 2020, arXiv:2010.02502, eq. 12 with eta = 0)."""

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
    """PLMS, the linear multistep half of PNDM (Liu et al., 2022, arXiv:2202.09778, eqs. 9, 12), with steps + 1 calls.

    The first step is made twice: the second time with the mean of the outputs at its two ends. As in diffusers,
    outputs are mixed as the model gives them, so velocities of different levels are mixed as if of one.
    """
    calls = start.kept(np.repeat(np.arange(steps), 1 + (np.arange(steps) == 1)))  # 0, 1, 1, 2, 3, ...
    timesteps, alphas, next_alphas = (array[calls] for array in schedule.levels(steps))
    again = np.arange(len(calls)) == 1
    alphas[again] = schedule.alphas_cumprod[timesteps[again] + schedule.num_train_timesteps // steps]
    next_alphas[again] = schedule.alphas_cumprod[timesteps[again]]
    # Adams-Bashforth of rising order, newest output first; the second row is the trapezoid.
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
    """Euler's method on the probability flow ODE (Karras et al., 2022, arXiv:2206.00364, Algorithm 1, lines 3-5)."""

    def step(x: jax.Array, level: _Level) -> tuple[jax.Array, None]:
        timestep, sigma, next_sigma = level
        return x + (next_sigma - sigma) * _slope(denoiser, x, timestep, sigma, schedule), None

    return _scan(step, *_exploding(noise, schedule, steps, start))


def euler_ancestral(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """Euler's method to below the next level, then fresh noise up to it.

    The steps of DDPM (Song et al., 2020, arXiv:2010.02502, eq. 16 with eta = 1), written for sigmas by k-diffusion.
    """

    def step(x: jax.Array, level: tuple[jax.Array, _Level]) -> tuple[jax.Array, None]:
        assert keys is not None
        i, (timestep, sigma, next_sigma) = level
        down = next_sigma**2 / sigma
        up = next_sigma * jnp.sqrt(1 - (next_sigma / sigma) ** 2)
        fresh = draw_noise(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], x.dtype), keys)
        return x + (down - sigma) * _slope(denoiser, x, timestep, sigma, schedule) + up * fresh, None

    first, levels = _exploding(noise, schedule, steps, start)
    return _scan(step, first, (start.kept(np.arange(steps)), levels))


def dpmpp_2m(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """DPM-Solver++(2M) (Lu et al., 2022, arXiv:2211.01095, Algorithm 2), ending in a first-order step to sigma 0."""
    # "leading" and "linspace" also count the clean end, to which the last step goes.
    timesteps = np.round(schedule.timesteps(steps, spare=int(schedule.timestep_spacing != "trailing")))
    levels = timesteps.astype(np.int32), schedule.sigmas_at(timesteps)
    return _dpmpp_2m(denoiser, noise, schedule, levels, start)


def dpmpp_2m_karras(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, steps: int, keys: Keys | None, start: Start = FROM_NOISE
) -> jax.Array:
    """DPM-Solver++(2M) on the levels of Karras et al. (2022, arXiv:2206.00364, eq. 5), whatever the spacing."""
    sigmas = schedule.karras_sigmas(steps)
    timesteps = np.round(schedule.timesteps_of(sigmas)).astype(np.int32)
    return _dpmpp_2m(denoiser, noise, schedule, (timesteps, sigmas), start)


def _dpmpp_2m(
    denoiser: Denoiser, noise: jax.Array, schedule: Schedule, levels: tuple[np.ndarray, np.ndarray], start: Start
) -> jax.Array:
    """Walks down the levels timesteps [steps] and sigmas [steps], and then to sigma 0."""
    timesteps, sigmas = start.kept(levels)
    h = np.diff(-np.log(sigmas))
    # 1 / (2 r), the share of the second order: none at the first step, nor at the last, whose h is infinite.
    extrapolation = np.zeros(len(sigmas), np.float32)
    extrapolation[1:-1] = h[1:] / (2 * h[:-1])

    def step(carry: tuple[jax.Array, jax.Array], level: _Level) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, past = carry
        timestep, sigma, next_sigma, extrapolation = level
        (signal, spread), (next_signal, next_spread) = _preserving(sigma), _preserving(next_sigma)
        clean, _ = _clean_and_noise(_evaluate(denoiser, x, timestep), x, signal, spread, schedule)
        d = clean + extrapolation * (clean - past)
        x = next_spread / spread * x + next_signal * (1 - next_sigma / sigma) * d
        return (x, clean), None

    signal = 1 / np.sqrt(sigmas[0] ** 2 + 1)
    first = start.latents(noise, signal, signal * sigmas[0])
    return _scan(step, (first, jnp.zeros_like(first)), (*_sigma_levels(timesteps, sigmas), extrapolation))[0]


def _scan(step: Callable[[_Carry, Any], tuple[_Carry, None]], carry: _Carry, levels: Any) -> _Carry:
    """What the last step hands on; `levels` is a tree of arrays [steps, ...]."""
    return jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, levels))[0]


def _evaluate(denoiser: Denoiser, x: jax.Array, timestep: jax.Array) -> jax.Array:
    """The model's output [N, H, W, C] for latents x [N, H, W, C], all at one timestep []."""
    return denoiser(x, jnp.full(x.shape[:1], timestep)).astype(x.dtype)


def _clean_and_noise(
    output: jax.Array, x: jax.Array, signal: jax.Array, spread: jax.Array, schedule: Schedule
) -> tuple[jax.Array, jax.Array]:
    """The parts of x = signal clean + spread noise that a model's output tells of: two [N, H, W, C].

    output, x: [N, H, W, C]. signal, spread: [], signal² + spread² = 1.
    """
    if schedule.prediction_type == "v_prediction":
        return signal * x - spread * output, signal * output + spread * x
    return (x - spread * output) / signal, output


def _ddim_step(
    x: jax.Array, output: jax.Array, alpha: jax.Array, next_alpha: jax.Array, schedule: Schedule, clip: bool
) -> jax.Array:
    """Latents [N, H, W, C] of the next level, from x and the model's output [N, H, W, C]; alphas []."""
    clean, noise = _clean_and_noise(output, x, jnp.sqrt(alpha), jnp.sqrt(1 - alpha), schedule)
    if clip:
        clean = jnp.clip(clean, -1, 1)
    return jnp.sqrt(next_alpha) * clean + jnp.sqrt(1 - next_alpha) * noise


def _preserving(sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scales of signal and noise in variance-preserving latents, [] -> two []."""
    signal = 1 / jnp.sqrt(sigma**2 + 1)
    return signal, sigma * signal


def _slope(denoiser: Denoiser, x: jax.Array, timestep: jax.Array, sigma: jax.Array, schedule: Schedule) -> jax.Array:
    """dx / dsigma of the probability flow ODE, [N, H, W, C]: the noise in x = clean + sigma noise."""
    signal, spread = _preserving(sigma)
    preserving = signal * x
    return _clean_and_noise(_evaluate(denoiser, preserving, timestep), preserving, signal, spread, schedule)[1]


def _sigma_levels(timesteps: np.ndarray, sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timesteps, sigmas and next sigmas, [steps] each; the last step arrives at sigma 0."""
    sigmas = np.append(sigmas, 0).astype(np.float32)
    return timesteps, sigmas[:-1], sigmas[1:]


def _exploding(
    noise: jax.Array, schedule: Schedule, steps: int, start: Start
) -> tuple[jax.Array, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What a walk over sigmas starts from [N, H, W, C], and its `_sigma_levels`. Timesteps may have fractions."""
    timesteps = schedule.timesteps(steps)
    levels = start.kept(_sigma_levels(timesteps.astype(np.float32), schedule.sigmas_at(timesteps)))
    first = levels[1][0]
    # "leading" begins below the last level: there diffusers gives the noise the variance of noisy latents.
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
