"""The noise schedule that a model was trained with, and its noising of latents."""

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
    """What a sampler walks down: steps from noisy to clean."""

    timesteps: np.ndarray  # int32 [steps]
    alphas: np.ndarray  # float32 [steps], cumulative alpha at the timestep
    next_alphas: np.ndarray  # float32 [steps], cumulative alpha that the step arrives at


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule, by diffusers' names; the defaults are Stable Diffusion 1.5's."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    set_alpha_to_one: bool = False
    steps_offset: int = 1
    clip_sample: bool = False
    timestep_spacing: str = "leading"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Schedule":
        """Reads any diffusers scheduler_config.json; ValueError names what is not supported."""
        for key, supported in _SUPPORTED.items():
            if key in values and values[key] not in supported:
                raise ValueError(f"scheduler: {key}={values[key]!r} is not supported (only {supported})")
        # What the schedulers assume of absent keys; but DDIM's clip_sample=True would ruin latents, and an absent
        # timestep_spacing is "leading" for every class: the sampler is our user's choice, not the file's, so that
        # Euler's own "linspace" says nothing of it. ReVersion's pipeline (PNDM) has "leading".
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
        """The scheduler_config.json of diffusers' DDIMScheduler, which samples as `samplers.ddim` does."""
        return {
            "_class_name": "DDIMScheduler",
            **dataclasses.asdict(self),
            "trained_betas": None,
        }

    @functools.cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """Cumulative products of 1 - beta: the share of signal in the variance, float32 [T]."""
        steps = self.num_train_timesteps
        if self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, steps, dtype=np.float64) ** 2
        else:
            betas = np.linspace(self.beta_start, self.beta_end, steps, dtype=np.float64)
        # In double precision: within 1e-6 of diffusers' sums in single precision.
        alphas = np.cumprod(1 - betas).astype(np.float32)
        alphas.setflags(write=False)
        return alphas

    def add_noise(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """sqrt(a_t) latents + sqrt(1 - a_t) noise; timesteps has the leading axes of latents."""
        alphas = self._alphas(timesteps, latents.ndim)
        return jnp.sqrt(alphas) * latents + jnp.sqrt(1 - alphas) * noise

    def training_target(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """What the model is to predict from `add_noise`'s: the noise, or by prediction_type the velocity.

        The velocity is sqrt(a_t) noise - sqrt(1 - a_t) latents (Salimans & Ho, 2022, arXiv:2202.00512, section 4).
        """
        if self.prediction_type == "epsilon":
            return noise
        alphas = self._alphas(timesteps, latents.ndim)
        return jnp.sqrt(alphas) * noise - jnp.sqrt(1 - alphas) * latents

    def _alphas(self, timesteps: jax.Array, ndim: int) -> jax.Array:
        """Cumulative alphas at timesteps [...], with axes of length 1 behind, up to `ndim` axes."""
        alphas = jnp.asarray(self.alphas_cumprod)[timesteps]
        return alphas.reshape(alphas.shape + (1,) * (ndim - alphas.ndim))

    def timesteps(self, steps: int, spare: int = 0) -> np.ndarray:
        """From noisy to clean, spaced by timestep_spacing: float64 [steps], of which "linspace" makes fractions.

        `spare` further ones are spaced out with them at the clean end, and left off. The spacings are those of Lin
        et al. (2023, arXiv:2305.08891, Table 2). ValueError unless the schedule has as many.
        """
        total, count = self.num_train_timesteps, steps + spare
        if not 1 <= steps <= total - spare:
            raise ValueError(f"steps={steps} is not between 1 and the schedule's {total - spare}")
        if self.timestep_spacing == "linspace":
            timesteps = np.linspace(0, total - 1, count)[::-1]
        elif self.timestep_spacing == "trailing":
            timesteps = np.round(np.arange(total, 0, -total / count)) - 1
        else:
            timesteps = np.arange(count, dtype=np.float64)[::-1] * (total // count) + self.steps_offset
        if timesteps[0] >= total:
            raise ValueError(f"steps={steps} with steps_offset={self.steps_offset} starts beyond timestep {total - 1}")
        # The division's rounding can leave one too many, which diffusers would call the model with: timestep -1.
        return timesteps[:steps]

    def levels(self, steps: int) -> Levels:
        """Levels of whole timesteps, as diffusers' DDIMScheduler and PNDMScheduler have them.

        A step arrives total // steps timesteps below where it starts, whether or not the next one starts there.
        """
        timesteps = np.round(self.timesteps(steps)).astype(np.int32)
        last = 1.0 if self.set_alpha_to_one else self.alphas_cumprod[0]
        arrived = timesteps - self.num_train_timesteps // steps
        next_alphas = np.where(arrived >= 0, self.alphas_cumprod[arrived], last)
        return Levels(timesteps, self.alphas_cumprod[timesteps], next_alphas.astype(np.float32))

    @functools.cached_property
    def sigmas(self) -> np.ndarray:
        """Ratios of noise to signal, sqrt((1 - a) / a), float64 [T]."""
        alphas = self.alphas_cumprod.astype(np.float64)
        return np.sqrt((1 - alphas) / alphas)

    def sigmas_at(self, timesteps: np.ndarray) -> np.ndarray:
        """Sigmas at timesteps, between which they are linear."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas)

    def timesteps_of(self, sigmas: np.ndarray) -> np.ndarray:
        """Timesteps, with fractions, at which log sigma has these values, linear between."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(self.num_train_timesteps))

    def karras_sigmas(self, steps: int) -> np.ndarray:
        """From all of the schedule's noise to least, evenly in sigma^(1/7) (Karras et al., 2022, eq. 5, rho = 7)."""
        if not 1 <= steps <= self.num_train_timesteps:
            raise ValueError(f"steps={steps} is not between 1 and the schedule's {self.num_train_timesteps}")
        first, last = self.sigmas[-1] ** (1 / 7), self.sigmas[0] ** (1 / 7)
        return np.linspace(first, last, steps) ** 7
