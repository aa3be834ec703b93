"""Draws pictures with any Stable Diffusion 1.x, and with learned words of a training run or of embedding files.

python -m reversion_jax.sample --workdir runs/hug --prompt "cat <R> teapot" --num_images 8
python -m reversion_jax.sample --model FOLDER_OR_HUB_ID --embedding hug.safetensors --prompt "cat <R> teapot"
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: put the prompt in quotes")
    from reversion_jax.drawing import samples  # imported here so that --help does not load JAX
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    given = lambda flags: {key: flag.value for key, flag in flags.items() if flag.value is not None}
    source = samples.Source(_WORKDIR.value, _STEP.value, _MODEL.value, _EMBEDDING.value or [], given(_SETTINGS))
    prompts = samples.read_prompts(_PROMPT.value or [], _PROMPTS_FILE.value)
    samples.sample(source, prompts, _OUT.value, **given(_PICTURES))


if __name__ == "__main__":
    from absl import app, flags

    text, texts, whole, choice = flags.DEFINE_string, flags.DEFINE_multi_string, flags.DEFINE_integer, flags.DEFINE_enum
    _WORKDIR = text("workdir", None, "Folder of a training run, to use its learned words and settings.")
    _STEP = whole("step", None, "Step of the run's checkpoint to draw with; default: the newest.", 0)
    _MODEL = text("model", None, "Diffusers folder, .safetensors checkpoint, hub id or miniature; default: the run's.")
    _EMBEDDING = texts("embedding", None, "Words: file, folder, hub id or hub id/FILE; TOKEN=FILE renames; repeatable.")
    _PROMPT = texts("prompt", None, 'A prompt, such as "cat <R> teapot"; repeatable.')
    _PROMPTS_FILE = text("prompts_file", None, "A text file with one prompt per line.")
    _OUT = text("out", None, "Folder for the pictures; default: a new folder in WORKDIR/samples, or in samples.")
    _PICTURES = {
        "num_images": whole("num_images", None, "Images per prompt; default 4. Not with --interpolate.", 1),
        "seed": whole("seed", 0, "Seed of each prompt's first image; the next has seed + 1.", 0),
        "init_image": text("init_image", None, "A picture to start from (image to image); see docs/editing.md."),
        "strength": flags.DEFINE_float("strength", None, "How much --init_image changes, in (0, 1]; default 0.8."),
        "interpolate": whole("interpolate", None, "Draw a clip of this many frames between two prompts or seeds.", 2),
        "to_seed": whole("to_seed", None, "Seed of the clip's last frame; default: --seed.", 0),
    }
    _SETTINGS = {  # default of each flag: the training run's setting, or else a value that suits the model
        "sampler": text("sampler", None, "auto, ddim, pndm, euler[_ancestral], dpmpp_2m[_karras]; default: the run's."),
        "sample_steps": whole("steps", None, "Denoising steps; default: the run's, or 50 (miniature: 20).", 1),
        "guidance_scale": flags.DEFINE_float("guidance_scale", None, "1: off; default the run's or 7.5 (miniature 3)."),
        "negative_prompt": text("negative_prompt", None, "What pictures should not show; default: the run's or none."),
        "resolution": whole("resolution", None, "Height and width, px; default: the run's, or 512 (miniature: 64).", 8),
        **{side: whole(side, None, "In px, for pictures that are not square.", 8) for side in ("height", "width")},
        "vae": text("vae", None, "A VAE that replaces the model's: a folder, a .safetensors file or a hub id."),
        "ema": flags.DEFINE_bool("ema", None, "Use the running average of the weights, which some single files have."),
        "prediction_type": choice("prediction_type", None, ["epsilon", "v_prediction"], "Overrides the model's files."),
        "resize": choice("resize", None, ["squash", "crop", "pad"], "How to fit --init_image; default: the run's."),
        "clip_skip": whole("clip_skip", None, "Last text encoder layers to skip: A1111's number minus 1.", 0),
        "precision": text("precision", None, "float32, tensorfloat32, bfloat16, float16; default: fits the device."),
        "sample_batch": whole("batch_size", None, "Images per batch; default: the run's, or 4 (miniature: 16).", 1),
        "devices": whole("devices", None, "Maximum number of devices, 0: all; default: the run's, or 0.", 0),
        "weight_shards": whole("weight_shards", None, "Devices that share the weights; default: the run's or 1.", 1),
    }
    app.run(main, flags_parser=parse_flags)
