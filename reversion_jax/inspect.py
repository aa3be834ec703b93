"""Shows a learned word among the model's own words: that of a training run, with its path over the checkpoints,

    python -m reversion_jax.inspect runs/hug

or that of an embedding file (this project's, diffusers', ReVersion's, A1111's), of which only the end is known:

    python -m reversion_jax.inspect learned_embeds.bin --model stable-diffusion-v1-5/stable-diffusion-v1-5

With a prompt it also draws a picture, and where each word of the prompt looks in it:

    python -m reversion_jax.inspect runs/hug --prompt "cat <R> teapot"

docs/inspect.md says what the numbers and pictures mean, and what they cannot show.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ValueError("give one run's folder or embedding file: python -m reversion_jax.inspect FILE_OR_RUN")
    from reversion_jax.drawing import inspection  # after the flags are read: --help need not load JAX
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    settings = {key: flag.value for key, flag in _SETTINGS.items() if flag.value is not None}
    prompt = inspection.Prompt(_PROMPT.value, _SEED.value, settings) if _PROMPT.value else None
    source = inspection.Source(argv[1], _MODEL.value, _STEP.value, _INITIALISER.value)
    print(f"files: {inspection.inspect(source, prompt, _OUT.value)}")


if __name__ == "__main__":
    from absl import app, flags

    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    _MODEL = text("model", None, "A diffusers folder, a .safetensors checkpoint, a hub id or miniature; or the run's.")
    _STEP = whole("step", None, "An earlier checkpoint of the run, by its step; by default the newest.", 0)
    _INITIALISER = text("initialiser", None, "The word that a file's words started from: \"and\" of ReVersion's own.")
    _PROMPT = text("prompt", None, 'Such as "cat <R> teapot": where do its words look?')
    _SEED = whole("seed", 0, "Of the prompt's picture.", 0, 2**32 - 1)
    _OUT = text("out", None, "Where the files go; by default WORKDIR/inspect of a run, inspect/NAME of a file.")
    _SETTINGS = {
        "sample_steps": whole("steps", None, "Of the prompt's picture; the run's, or 50 (miniature: 20).", 1),
        "guidance_scale": flags.DEFINE_float("guidance_scale", None, "1 is none; the run's, or 7.5 (miniature: 3)."),
        "negative_prompt": text("negative_prompt", None, "What to steer away from; the run's, or none."),
        "resolution": whole("resolution", None, "Pixels, both sides; the run's, or 512 (miniature: 64).", 8),
    }
    app.run(main, flags_parser=parse_flags)
