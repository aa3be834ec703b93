"""Draws with learned words: a training run's; or those of embedding files, with any Stable Diffusion 1.x; or none.

python -m reversion_jax.sample --workdir runs/hug --prompt "cat <R> teapot" --num_images 8
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
    given = lambda flags: {key: flag.value for key, flag in flags.items() if flag.value is not None}
    source = samples.Source(_WORKDIR.value, _STEP.value, _MODEL.value, _EMBEDDING.value or [], given(_SETTINGS))
    prompts = samples.read_prompts(_PROMPT.value or [], _PROMPTS_FILE.value)
    samples.sample(source, prompts, _OUT.value, **given(_PICTURES))


if __name__ == "__main__":
    from absl import app, flags

    text, texts, whole, choice = flags.DEFINE_string, flags.DEFINE_multi_string, flags.DEFINE_integer, flags.DEFINE_enum
    _WORKDIR = text("workdir", None, "Folder of a training run, whose words and settings are used.")
    _STEP = whole("step", None, "An earlier checkpoint of the run, by its step; by default the newest.", 0)
    _MODEL = text("model", None, "A diffusers folder, a .safetensors checkpoint, a hub id or miniature; or the run's.")
    _EMBEDDING = texts("embedding", None, "Words: file, folder, hub id, hub id/FILE; TOKEN=FILE names one; repeatable.")
    _PROMPT = texts("prompt", None, 'Such as "cat <R> teapot"; repeatable.')
    _PROMPTS_FILE = text("prompts_file", None, "A text file with one prompt a line.")
    _OUT = text("out", None, "Where the PNGs go; by default a new folder in WORKDIR/samples, or in samples.")
    _PICTURES = {
        "num_images": whole("num_images", None, "Images of each prompt, by default 4; not with --interpolate.", 1),
        "seed": whole("seed", 0, "Of each prompt's first image; the next has seed + 1.", 0),
        "init_image": text("init_image", None, "A picture to begin from: image to image. See docs/editing.md."),
        "strength": flags.DEFINE_float("strength", None, "How much of it is drawn anew: in (0, 1], by default 0.8."),
        "interpolate": whole("interpolate", None, "Frames of a clip between two prompts, or --seed and --to_seed.", 2),
        "to_seed": whole("to_seed", None, "Seed of the clip's last frame; by default --seed.", 0),
    }
    _SETTINGS = {  # by default what the training run's config says, or what suits the model
        "sampler": text("sampler", None, "ddim, pndm, euler[_ancestral], dpmpp_2m[_karras]; the run's, or auto."),
        "sample_steps": whole("steps", None, "The run's, or 50 (miniature: 20).", 1),
        "guidance_scale": flags.DEFINE_float("guidance_scale", None, "1 is none; the run's, or 7.5 (miniature: 3)."),
        "negative_prompt": text("negative_prompt", None, "What to steer away from; the run's, or none."),
        "resolution": whole("resolution", None, "Pixels, both sides; the run's, or 512 (miniature: 64).", 8),
        **{side: whole(side, None, "Pixels, where pictures are not square.", 8) for side in ("height", "width")},
        "vae": text("vae", None, "Another VAE: a folder, a .safetensors file or a hub id."),
        "ema": flags.DEFINE_bool("ema", None, "Of a single file that keeps both, the weights' running average."),
        "prediction_type": choice("prediction_type", None, ["epsilon", "v_prediction"], "Where files do not say."),
        "resize": choice("resize", None, ["squash", "crop", "pad"], "How --init_image gets its size; the run's."),
        "clip_skip": whole("clip_skip", None, "Last layers of the text encoder left out; A1111's number less 1.", 0),
        "precision": text("precision", None, "float32, tensorfloat32, bfloat16 or float16; by default what suits."),
        "sample_batch": whole("batch_size", None, "Images drawn at once; the run's, or 4 (miniature: 16).", 1),
        "devices": whole("devices", None, "Maximum number of devices; the run's, or all (0).", 0),
        "weight_shards": whole("weight_shards", None, "Devices that hold the weights together; the run's, or 1.", 1),
    }
    app.run(main, flags_parser=parse_flags)
