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
    "prediction_type": ("epsilon",),
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "timestep_spacing": ("leading",),
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

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Schedule":
        """Reads any diffusers scheduler_config.json; ValueError names what is not supported."""
        for key, supported in _SUPPORTED.items():
            if key in values and values[key] not in supported:
                raise ValueError(f"scheduler: {key}={values[key]!r} is not supported (only {supported})")
        # What the schedulers assume of absent keys; but DDIM's clip_sample=True would ruin latents.
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
            "timestep_spacing": "leading",
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
        alphas = jnp.asarray(self.alphas_cumprod)[timesteps]
        alphas = alphas.reshape(alphas.shape + (1,) * (latents.ndim - alphas.ndim))
        return jnp.sqrt(alphas) * latents + jnp.sqrt(1 - alphas) * noise

    def levels(self, steps: int) -> Levels:
        """Evenly spaced levels, as diffusers' DDIMScheduler with "leading" spacing has them."""
        total = self.num_train_timesteps
        if not 1 <= steps <= total:
            raise ValueError(f"steps={steps} is not between 1 and the schedule's {total}")
        stride = total // steps
        timesteps = np.arange(steps, dtype=np.int32)[::-1] * stride + self.steps_offset
        if timesteps[0] >= total:
            raise ValueError(f"steps={steps} with steps_offset={self.steps_offset} starts beyond timestep {total - 1}")
        last = 1.0 if self.set_alpha_to_one else self.alphas_cumprod[0]
        arrived = timesteps - stride
        next_alphas = np.where(arrived >= 0, self.alphas_cumprod[arrived], last)
        return Levels(timesteps, self.alphas_cumprod[timesteps], next_alphas.astype(np.float32))
