"""Draws with learned words: with those of a training run, by its settings,

    python -m reversion_jax.sample --workdir runs/hug --prompt "cat <R> teapot" --num_images 8

or with any Stable Diffusion 1.x and embedding files (this project's, diffusers', ReVersion's, A1111's), or none:

    python -m reversion_jax.sample --model FOLDER_OR_HUB_ID --embedding hug.safetensors --prompt "cat <R> teapot"
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: put the prompt in quotes")
    from reversion_jax.drawing import samples  # after the flags are read: --help need not load JAX
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    settings = {key: flag.value for key, flag in _SETTINGS.items() if flag.value is not None}
    source = samples.Source(_WORKDIR.value, _STEP.value, _MODEL.value, _EMBEDDING.value or [], settings)
    prompts = samples.read_prompts(_PROMPT.value or [], _PROMPTS_FILE.value)
    samples.sample(source, prompts, _OUT.value, num_images=_NUM_IMAGES.value, seed=_SEED.value)


if __name__ == "__main__":
    from absl import app, flags

    text, texts, whole = flags.DEFINE_string, flags.DEFINE_multi_string, flags.DEFINE_integer
    _WORKDIR = text("workdir", None, "Folder of a training run, whose words and settings are used.")
    _STEP = whole("step", None, "An earlier checkpoint of the run, by its step; by default the newest.", 0)
    _MODEL = text("model", None, "A diffusers folder, a .safetensors checkpoint, a hub id or miniature; or the run's.")
    _EMBEDDING = texts("embedding", None, "Words: file, folder, hub id, hub id/FILE; TOKEN=FILE names one; repeatable.")
    _PROMPT = texts("prompt", None, 'Such as "cat <R> teapot"; repeatable.')
    _PROMPTS_FILE = text("prompts_file", None, "A text file with one prompt a line.")
    _NUM_IMAGES = whole("num_images", 4, "Images of each prompt.", 1)
    _SEED = whole("seed", 0, "Of each prompt's first image; the next has seed + 1.", 0)
    _OUT = text("out", None, "Where the PNGs go; by default a new folder in WORKDIR/samples, or in samples.")
    # By default what the training run's config says, or what suits the model.
    samplers = "ddim, pndm, euler, euler_ancestral, dpmpp_2m or dpmpp_2m_karras; the run's, or auto, the model's own."
    _SETTINGS = {
        "sampler": text("sampler", None, samplers),
        "sample_steps": whole("steps", None, "The run's, or 50 (miniature: 20).", 1),
        "guidance_scale": flags.DEFINE_float("guidance_scale", None, "1 is none; the run's, or 7.5 (miniature: 3)."),
        "negative_prompt": text("negative_prompt", None, "What to steer away from; the run's, or none."),
        "resolution": whole("resolution", None, "Pixels, both sides; the run's, or 512 (miniature: 64).", 8),
        **{side: whole(side, None, "Pixels, where pictures are not square.", 8) for side in ("height", "width")},
        "vae": text("vae", None, "Another VAE: a folder, a .safetensors file or a hub id."),
        "ema": flags.DEFINE_bool("ema", None, "Of a single file that keeps both, the weights' running average."),
        "prediction_type": flags.DEFINE_enum(
            "prediction_type", None, ["epsilon", "v_prediction"], "Where the model's files do not say."
        ),
        "clip_skip": whole("clip_skip", None, "Last layers of the text encoder left out; A1111's number less 1.", 0),
        "precision": text("precision", None, "float32, tensorfloat32, bfloat16 or float16; by default what suits."),
        "sample_batch": whole("batch_size", None, "Images drawn at once; the run's, or 4 (miniature: 16).", 1),
        "devices": whole("devices", None, "Maximum number of devices; the run's, or all (0).", 0),
        "weight_shards": whole("weight_shards", None, "Devices that hold the weights together; the run's, or 1.", 1),
    }
    app.run(main, flags_parser=parse_flags)
