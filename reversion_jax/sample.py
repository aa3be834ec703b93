"""Draws prompts with learned words.

With what a training run learned; in front of <R>, <R-inv> turns the relation round:

    python -m reversion_jax.sample --workdir runs/miniature --prompt "red circle <R> a blue star"
    python -m reversion_jax.sample --workdir runs/miniature --prompt "blue star <R-inv> <R> red circle"

Or by that prompt and its inverse at once:

    python -m reversion_jax.sample --workdir runs/miniature --prompt "red circle <R> blue star" --both_ways=mean

Or with any Stable Diffusion 1.x and embedding files (this project's, diffusers', ReVersion's, A1111's), or none:

    python -m reversion_jax.sample --model FOLDER_OR_HUB_ID --embedding hug.safetensors --prompt "cat <R> teapot"
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: put the prompt in quotes")
    import dataclasses

    from etils import epath

    from reversion_jax.drawing import samples, words
    from reversion_jax.runtime import files
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    workdir = files.place(_WORKDIR.value) if _WORKDIR.value else None
    prompts = samples.read_prompts(_PROMPT.value or [], _PROMPTS_FILE.value)
    found = words.read(workdir, _MODEL.value, _EMBEDDING.value or [], _STEP.value)
    own = {key: flag.value for key, flag in _SETTINGS.items() if flag.value is not None}
    found = found._replace(settings=dataclasses.replace(found.settings, **own))
    out = files.place(_OUT.value) if _OUT.value else samples.free_folder((workdir or epath.Path()) / "samples")
    path = samples.sample(found, prompts, out, num_images=_NUM_IMAGES.value, seed=_SEED.value)
    print(f"pictures: {out}, up to {samples.MAX_ON_GRID} of them on {path}")


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose words and settings are used.")
    _STEP = flags.DEFINE_integer("step", None, "An earlier checkpoint of the run, by its step; the newest by default.")
    _MODEL = flags.DEFINE_string(
        "model",
        None,
        "A Stable Diffusion 1.x: a diffusers folder, a .safetensors checkpoint, a hub id such as owner/name or "
        "owner/name@revision, or miniature. The training run's by default.",
    )
    _EMBEDDING = flags.DEFINE_multi_string(
        "embedding", None, "A file of learned words, FILE or TOKEN=FILE to choose its name in prompts; may be repeated."
    )
    _PROMPT = flags.DEFINE_multi_string("prompt", None, 'Such as "cat <R> teapot"; may be repeated.')
    _PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "A text file with a prompt a line.")
    _NUM_IMAGES = flags.DEFINE_integer("num_images", 4, "Images of each prompt.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of each prompt's first image; the next has seed + 1.", lower_bound=0)
    _OUT = flags.DEFINE_string(
        "out", None, "Where the PNGs go; a new folder in WORKDIR/samples, or samples, by default."
    )
    # By default what the training run's config says, or config.py for the model.
    _SETTINGS = {
        "sampler": flags.DEFINE_string(
            "sampler", None, "ddim, pndm, euler, euler_ancestral, dpmpp_2m or dpmpp_2m_karras; the run's, or ddim."
        ),
        "sample_steps": flags.DEFINE_integer("steps", None, "The run's, or 50 (miniature: 20).", lower_bound=1),
        "guidance_scale": flags.DEFINE_float("guidance_scale", None, "1 is none; the run's, or 7.5 (miniature: 3)."),
        "negative_prompt": flags.DEFINE_string("negative_prompt", None, "What to steer away from; the run's, or none."),
        "resolution": flags.DEFINE_integer(
            "resolution", None, "Pixels, both sides; the run's, or 512 (miniature: 64).", lower_bound=8
        ),
        "precision": flags.DEFINE_enum(
            "precision", None, ["float32", "bfloat16"], "Of text encoder and UNet; the run's, or float32."
        ),
        "sample_batch": flags.DEFINE_integer(
            "batch_size", None, "Images drawn at once; the run's, or 4 (miniature: 16).", lower_bound=1
        ),
        "devices": flags.DEFINE_integer("devices", None, "At most so many; the run's, or all (0).", lower_bound=0),
        "weight_shards": flags.DEFINE_integer(
            "weight_shards", None, "Devices that hold the weights together; the run's, or 1.", lower_bound=1
        ),
    }
    app.run(main, flags_parser=parse_flags)
