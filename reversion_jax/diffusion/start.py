"""Where a sampler begins: at noise alone, or at a picture's latents with noise."""

from typing import Any, NamedTuple, TypeVar

import jax

_Levels = TypeVar("_Levels")


class Start(NamedTuple):
    """By default noise alone, at the first level; for image to image a picture, with the noise of a later level.

    Image to image is SDEdit (Meng et al., 2021, arXiv:2108.01073), as diffusers' img2img pipeline does it.
    """

    clean: jax.Array | None = None  # latents [N, H, W, C] of the picture
    skipped: int = 0  # levels that are left out, the noisiest

    def kept(self, levels: _Levels) -> _Levels:
        """The levels that are walked down: of each array [steps, ...] of a tree the end."""
        return jax.tree.map(lambda array: array[self.skipped :], levels)

    def latents(self, noise: jax.Array, signal: Any, spread: Any) -> jax.Array:
        """The picture with noise, signal clean + spread noise; or only unit noise [N, H, W, C]. signal, spread: []."""
        return noise if self.clean is None else float(signal) * self.clean + float(spread) * noise


FROM_NOISE = Start()


def skipped_steps(steps: int, strength: float) -> int:
    """How many of the steps a strength leaves out, rounded as diffusers rounds. ValueError if it leaves none."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength}: must be above 0, and at most 1, which redraws the whole picture")
    if not (left := int(steps * strength)):
        raise ValueError(f"strength={strength} of {steps} steps is less than one step: give more of either")
    return steps - left
