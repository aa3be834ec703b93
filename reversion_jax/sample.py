"""Draws prompts with a learned relation.

    python -m reversion_jax.sample --workdir runs/miniature --prompt "red circle <R> a blue star"

In front of <R>, <R-inv> turns the relation round: "blue star <R-inv> <R> red circle".
"""

import re
import sys
from pathlib import Path

from reversion_jax.errors import one_line, parse_flags


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"


def sample(
    workdir: Path,
    prompts: list[str],
    out: Path,
    *,
    num_images: int,
    seed: int,
    steps: int | None,
    guidance: float | None,
) -> Path:
    """Writes `num_images` PNGs of each prompt and a grid of all; returns the grid's path.

    Image i of a prompt is drawn from noise of seed + i; every PNG says in its metadata how it was made.
    """
    import numpy as np

    from reversion_jax import generate, job, pictures
    from reversion_jax.inversion.prompts import RELATION

    if num_images < 1 or not 0 <= seed <= 2**32 - num_images:
        raise ValueError(f"--num_images={num_images} --seed={seed}: at least 1 image, seeds from 0 to 2**32 - 1")
    config, rows, step = job.load_rows(workdir)
    steps, guidance = steps or config.sample_steps, config.guidance_scale if guidance is None else guidance
    sd, tokenizer = job.load_model(config)
    for prompt in prompts:
        if RELATION not in prompt:
            print(f"warning: no {RELATION} in {prompt!r}: what was learned has no part in it", file=sys.stderr)
        if cut := tokenizer.truncated(prompt):
            print(f"warning: {prompt!r} is too long; left out: {cut!r}", file=sys.stderr)
    print(f"{workdir}: {config.relation} by {config.method}, {step} of {config.steps} steps trained")
    seeds = [seed + i for i in range(num_images)]
    images = generate.draw(
        sd,
        tokenizer,
        np.repeat(prompts, num_images).tolist(),
        seeds * len(prompts),
        rows,
        num_steps=steps,
        guidance_scale=guidance,
        resolution=config.resolution,
        negative_prompt=config.negative_prompt,
        batch_size=min(config.sample_batch, num_images * len(prompts)),
        progress="drawing",
    )
    images = generate.to_uint8(images)
    settings = {
        "model": config.model,
        "sampler": "ddim",
        "steps": str(steps),
        "guidance_scale": str(guidance),
        "resolution": str(config.resolution),
        "negative_prompt": config.negative_prompt,
        "relation": f"{config.relation}, {config.method}, {step} steps",
    }
    for n, image in enumerate(images):
        prompt, number = prompts[n // num_images], seeds[n % num_images]
        path = out / f"{n // num_images:03d}-{_file_name(prompt)}-{number}.png"
        pictures.save_png(path, image, {"prompt": prompt, "seed": str(number), **settings})
    pictures.save_png(
        out / "grid.png", pictures.grid(images), {"prompts": "\n".join(prompts), "seed": str(seed), **settings}
    )
    return out / "grid.png"


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: put the prompt in quotes")
    out = Path(_OUT.value) if _OUT.value else Path(_WORKDIR.value) / "samples"
    path = sample(
        Path(_WORKDIR.value),
        _PROMPT.value,
        out,
        num_images=_NUM_IMAGES.value,
        seed=_SEED.value,
        steps=_STEPS.value,
        guidance=_GUIDANCE_SCALE.value,
    )
    print(f"pictures: {out}, all of them on {path}")


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
    _PROMPT = flags.DEFINE_multi_string("prompt", None, 'Such as "cat <R> teapot"; may be repeated.', required=True)
    _NUM_IMAGES = flags.DEFINE_integer("num_images", 4, "Images of each prompt.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of each prompt's first image; the next has seed + 1.", lower_bound=0)
    _STEPS = flags.DEFINE_integer("steps", None, "DDIM steps; the training config's by default.", lower_bound=1)
    _GUIDANCE_SCALE = flags.DEFINE_float("guidance_scale", None, "The training config's by default.")
    _OUT = flags.DEFINE_string("out", None, "Where the PNGs go; WORKDIR/samples by default.")
    app.run(main, flags_parser=parse_flags)
