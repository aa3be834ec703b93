"""Plans what to draw: the prompt, the seed and the file name of each picture, or of each frame of a clip."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from reversion_jax.diffusion.noise import Between

MAX_SEED = 2**32 - 1


class Shot(NamedTuple):
    """One picture to draw. The prompt may be interpolated between two prompts, and the seed between two seeds."""

    prompt: str | Between
    seed: int | Between
    name: str  # of the picture's file, without the suffix

    def metadata(self) -> dict[str, str]:
        """Returns the prompt and the seed for the file's metadata.

        If the prompt or the seed is interpolated, also returns the second prompt or seed, and the weight.
        """
        found: dict[str, str] = {}
        for key, value in (("prompt", self.prompt), ("seed", self.seed)):
            if isinstance(value, Between):
                found |= {key: str(value.first), f"to_{key}": str(value.last), "weight": f"{value.weight:g}"}
            else:
                found[key] = str(value)
        return found


def pictures(prompts: Sequence[str], num_images: int, seed: int) -> list[Shot]:
    """Plans `num_images` pictures of each prompt, with the seeds seed, seed + 1, ….

    Raises ValueError if `num_images` or a seed is out of range.
    """
    if num_images < 1 or not 0 <= seed <= MAX_SEED + 1 - num_images:
        raise ValueError(f"--num_images={num_images} --seed={seed}: give at least 1 image, and seeds below 2**32")
    return [
        Shot(prompt, seed + i, f"{n:03d}-{file_name(prompt)}-{seed + i}")
        for n, prompt in enumerate(prompts)
        for i in range(num_images)
    ]


def frames(prompts: Sequence[str], seed: int, to_seed: int | None, count: int) -> list[Shot]:
    """Plans `count` frames in even steps from one prompt to another, from one seed to another, or both.

    The first frame has the first prompt and seed, and the last frame has the last prompt and seed. Raises ValueError if
    neither the prompt nor the seed changes, for more than two prompts, or if a seed or `count` is out of range.
    """
    if count < 2:
        raise ValueError(f"--interpolate={count}: a clip has at least 2 frames")
    to_seed = seed if to_seed is None else to_seed
    if len(prompts) > 2 or (len(set(prompts)) == 1 and to_seed == seed):
        raise ValueError(
            f"--interpolate goes from one prompt to another, or from --seed to another --to_seed, but you gave "
            f"{len(prompts)} prompts, and seeds {seed} and {to_seed}"
        )
    if not 0 <= min(seed, to_seed) <= max(seed, to_seed) <= MAX_SEED:
        raise ValueError(f"--seed={seed} --to_seed={to_seed}: seeds must be from 0 to 2**32 - 1")
    weights = [i / (count - 1) for i in range(count)]
    way = lambda first, last, weight: first if first == last else Between(first, last, weight)
    return [
        Shot(way(prompts[0], prompts[-1], weight), way(seed, to_seed, weight), f"frame-{i:03d}")
        for i, weight in enumerate(weights)
    ]


def file_name(prompt: str) -> str:
    """Returns a prompt as a part of a file name: lower case letters, digits and hyphens, at most 60 characters."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
