"""The noise schedule that a model was trained with: noise levels, noisy latents and training targets."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SUPPORTED = {
    "beta_schedule": ("scaled_linear", "linear"),
    "prediction_type": ("epsilon", "v_prediction"),
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "trained_betas": (None,),
}


class Levels(NamedTuple):
    """The noise levels of a sampler's steps, from noisy to clean."""

    timesteps: np.ndarray  # int32 [steps]
    alphas: np.ndarray  # float32 [steps], cumulative alpha before the step
    next_alphas: np.ndarray  # float32 [steps], cumulative alpha after the step


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A variance-preserving noise schedule. The fields have diffusers' names, and Stable Diffusion 1.5's defaults."""

    num_train_timesteps: int = 1000  # T
    beta_start: float = 0.00085  # beta at timestep 0
    beta_end: float = 0.012  # beta at timestep T - 1
    beta_schedule: str = "scaled_linear"  # sqrt(beta) is linear in the timestep; with "linear", beta is linear
    prediction_type: str = "epsilon"  # the model predicts the noise; with "v_prediction", the velocity
    set_alpha_to_one: bool = False  # cumulative alpha after the last step: 1 (True), or as at timestep 0 (False)
    steps_offset: int = 1  # added to the timesteps of the spacing "leading"
    clip_sample: bool = False  # True: DDIM clips clean latents to [-1, 1]
    timestep_spacing: str = "leading"  # or "trailing" or "linspace", see `timesteps`

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Schedule":
        """Reads any diffusers scheduler_config.json. Raises ValueError for a setting that is not supported."""
        for key, supported in _SUPPORTED.items():
            if key in values and values[key] not in supported:
                raise ValueError(f"scheduler: {key}={values[key]!r} is not supported: use one of {supported}")
        # Keys that the file lacks get the defaults of diffusers' schedulers. Two settings keep the defaults of this
        # class instead. For `clip_sample`, DDIM's default in diffusers, True, would ruin latents. For
        # `timestep_spacing`, the default in diffusers differs between schedulers ("linspace" for Euler), but here the
        # user chooses the sampler, not the file. ReVersion's pipeline (PNDM) has the spacing "leading".
        absent = {
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "set_alpha_to_one": values.get("_class_name") != "PNDMScheduler",
            "steps_offset": 0,
        }
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{k: v for k, v in {**absent, **values}.items() if k in names})

    def to_json(self) -> dict[str, Any]:
        """Returns the scheduler_config.json of diffusers' DDIMScheduler, which samples like `samplers.ddim`."""
        return {
            "_class_name": "DDIMScheduler",
            **dataclasses.asdict(self),
            "trained_betas": None,
        }

    @functools.cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """The cumulative alphas a_t, float32 [T]: products of 1 - beta, and the signal's share of the variance."""
        steps = self.num_train_timesteps
        if self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, steps, dtype=np.float64) ** 2
        else:
            betas = np.linspace(self.beta_start, self.beta_end, steps, dtype=np.float64)
        # The alphas are computed in double precision. diffusers computes its alphas in single precision; the difference
        # is at most 1e-6.
        alphas = np.cumprod(1 - betas).astype(np.float32)
        alphas.setflags(write=False)
        return alphas

    def add_noise(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """Returns noisy latents, sqrt(a_t) latents + sqrt(1 - a_t) noise; timesteps has the leading axes of latents."""
        alphas = self._alphas(timesteps, latents.ndim)
        return jnp.sqrt(alphas) * latents + jnp.sqrt(1 - alphas) * noise

    def training_target(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """Returns what the model should predict from the noisy latents of `add_noise`, with the shape of latents.

        The target is the noise if prediction_type is "epsilon". Otherwise, the target is the velocity,
        sqrt(a_t) noise - sqrt(1 - a_t) latents (Salimans & Ho, 2022, arXiv:2202.00512, section 4).
        """
        if self.prediction_type == "epsilon":
            return noise
        alphas = self._alphas(timesteps, latents.ndim)
        return jnp.sqrt(alphas) * noise - jnp.sqrt(1 - alphas) * latents

    def _alphas(self, timesteps: jax.Array, ndim: int) -> jax.Array:
        """Returns the cumulative alphas at timesteps [...], with trailing axes of length 1 up to `ndim` axes."""
        alphas = jnp.asarray(self.alphas_cumprod)[timesteps]
        return alphas.reshape(alphas.shape + (1,) * (ndim - alphas.ndim))

    def timesteps(self, steps: int, spare: int = 0) -> np.ndarray:
        """Returns the timesteps of a sampler, from noisy to clean, float64 [steps], spaced by timestep_spacing.

        The spacings are those of Lin et al. (2023, arXiv:2305.08891, Table 2). "linspace" gives timesteps with
        fractions. The function places steps + spare timesteps, and leaves out the last `spare` timesteps, at the clean
        end. Raises ValueError if the schedule has fewer than steps + spare timesteps.
        """
        total, count = self.num_train_timesteps, steps + spare
        if not 1 <= steps <= total - spare:
            raise ValueError(f"steps={steps}: must be between 1 and the schedule's {total - spare}")
        if self.timestep_spacing == "linspace":
            timesteps = np.linspace(0, total - 1, count)[::-1]
        elif self.timestep_spacing == "trailing":
            timesteps = np.round(np.arange(total, 0, -total / count)) - 1
        else:
            timesteps = np.arange(count, dtype=np.float64)[::-1] * (total // count) + self.steps_offset
        if timesteps[0] >= total:
            raise ValueError(
                f"steps={steps}, steps_offset={self.steps_offset}: begins after timestep {total - 1}: use fewer steps"
            )
        # With "trailing", rounding in np.arange can add a timestep of -1. The slice removes this timestep; diffusers
        # would call the model at it.
        return timesteps[:steps]

    def levels(self, steps: int) -> Levels:
        """Returns the noise levels of `steps` steps at integer timesteps, as in diffusers' DDIMScheduler.

        diffusers' PNDMScheduler has the same levels. Each step goes down by num_train_timesteps // steps timesteps,
        even if the next step begins at another timestep.
        """
        timesteps = np.round(self.timesteps(steps)).astype(np.int32)
        last = 1.0 if self.set_alpha_to_one else self.alphas_cumprod[0]
        arrived = timesteps - self.num_train_timesteps // steps
        next_alphas = np.where(arrived >= 0, self.alphas_cumprod[arrived], last)
        return Levels(timesteps, self.alphas_cumprod[timesteps], next_alphas.astype(np.float32))

    @functools.cached_property
    def sigmas(self) -> np.ndarray:
        """The ratios of noise to signal, sqrt((1 - a_t) / a_t), float64 [T]."""
        alphas = self.alphas_cumprod.astype(np.float64)
        return np.sqrt((1 - alphas) / alphas)

    def sigmas_at(self, timesteps: np.ndarray) -> np.ndarray:
        """Returns the sigmas at timesteps, interpolated linearly between whole timesteps."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)

    def timesteps_of(self, sigmas: np.ndarray) -> np.ndarray:
        """Returns the timesteps of sigmas, with fractions: log sigma is interpolated linearly between timesteps."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(self.num_train_timesteps))

    def karras_sigmas(self, steps: int) -> np.ndarray:
        """Returns sigmas [steps] from the schedule's largest to its smallest, evenly spaced in sigma^(1/7).

        The formula is that of Karras et al. (2022, arXiv:2206.00364, eq. 5) with rho = 7. Raises ValueError if the
        schedule has fewer than `steps` timesteps.
        """
        if not 1 <= steps <= self.num_train_timesteps:
            raise ValueError(f"steps={steps}: must be between 1 and the schedule's {self.num_train_timesteps}")
        first, last = self.sigmas[-1] ** (1 / 7), self.sigmas[0] ** (1 / 7)
        return np.linspace(first, last, steps) ** 7
