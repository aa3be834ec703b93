"""What a command is to draw: of each picture its prompt, its seed and its file's name; pictures, or a clip's frames."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from reversion_jax.diffusion.noise import Between

MAX_SEED = 2**32 - 1


class Shot(NamedTuple):
    """One picture. Its prompt and its seed may each be on the way between two."""

    prompt: str | Between
    seed: int | Between
    name: str  # of its file, without the ending

    def metadata(self) -> dict[str, str]:
        """What its file says of its prompt and seed; of a clip's frame also where it goes to, and how far it is."""
        found: dict[str, str] = {}
        for key, value in (("prompt", self.prompt), ("seed", self.seed)):
            if isinstance(value, Between):
                found |= {key: str(value.first), f"to_{key}": str(value.last), "weight": f"{value.weight:g}"}
            else:
                found[key] = str(value)
        return found


def pictures(prompts: Sequence[str], num_images: int, seed: int) -> list[Shot]:
    """`num_images` pictures of each prompt, with seed, seed + 1, …. ValueError for numbers that make no sense."""
    if num_images < 1 or not 0 <= seed <= MAX_SEED + 1 - num_images:
        raise ValueError(f"--num_images={num_images} --seed={seed}: at least 1 image, seeds from 0 to 2**32 - 1")
    return [
        Shot(prompt, seed + i, f"{n:03d}-{file_name(prompt)}-{seed + i}")
        for n, prompt in enumerate(prompts)
        for i in range(num_images)
    ]


def frames(prompts: Sequence[str], seed: int, to_seed: int | None, count: int) -> list[Shot]:
    """`count` frames from one prompt or seed to another, or from both to both, in even steps; the ends are frames.

    ValueError unless there are two ends, and for a seed that is none.
    """
    if count < 2:
        raise ValueError(f"--interpolate={count}: a clip has at least 2 frames")
    to_seed = seed if to_seed is None else to_seed
    if len(prompts) > 2 or (len(set(prompts)) == 1 and to_seed == seed):
        raise ValueError(
            f"--interpolate goes from one prompt to another, or from --seed to another --to_seed; given are "
            f"{len(prompts)} prompts, seeds {seed} and {to_seed}"
        )
    if not 0 <= min(seed, to_seed) <= max(seed, to_seed) <= MAX_SEED:
        raise ValueError(f"--seed={seed} --to_seed={to_seed}: seeds are from 0 to 2**32 - 1")
    weights = [i / (count - 1) for i in range(count)]
    way = lambda first, last, weight: first if first == last else Between(first, last, weight)
    return [
        Shot(way(prompts[0], prompts[-1], weight), way(seed, to_seed, weight), f"frame-{i:03d}")
        for i, weight in enumerate(weights)
    ]


def file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
