"""The start of a sampler: pure noise, or the noisy latents of a picture (image to image)."""

from typing import Any, NamedTuple, TypeVar

import jax

_Levels = TypeVar("_Levels")


class Start(NamedTuple):
    """The start of a sampler. By default, the sampler begins with pure noise, at the first noise level.

    For image to image, the sampler begins at a later noise level, with a picture and the noise of that level. This
    method is SDEdit (Meng et al., 2021, arXiv:2108.01073), in the form of diffusers' img2img pipeline.
    """

    clean: jax.Array | None = None  # latents [N, H, W, C] of the picture; None: pure noise
    skipped: int = 0  # number of noise levels that are left out; the noisiest levels are left out first

    def kept(self, levels: _Levels) -> _Levels:
        """Returns the noise levels without the skipped levels; `levels` is a tree of arrays [steps, ...]."""
        return jax.tree.map(lambda array: array[self.skipped :], levels)

    def latents(self, noise: jax.Array, signal: Any, spread: Any) -> jax.Array:
        """Returns the first latents [N, H, W, C]: signal clean + spread noise, or only noise if there is no picture.

        noise: unit Gaussian [N, H, W, C]. signal, spread: scalars.
        """
        return noise if self.clean is None else float(signal) * self.clean + float(spread) * noise


FROM_NOISE = Start()


def skipped_steps(steps: int, strength: float) -> int:
    """Returns the number of steps that image to image leaves out for a strength in (0, 1], rounded as in diffusers.

    Raises ValueError if the strength is outside (0, 1], or so small that no step would be left.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: must be above 0, and at most 1, which redraws the whole picture")
    if not (left := int(steps * strength)):
        raise ValueError(f"strength={strength} of {steps} steps is less than one step: raise strength or steps")
    return steps - left
