"""Compares learned words with the words that a model knows.

To see the words of a training run, and how they changed from checkpoint to checkpoint:

    python -m reversion_jax.inspect runs/hug

To see the words of an embedding file from this project, diffusers, ReVersion or A1111 (without earlier checkpoints):

    python -m reversion_jax.inspect learned_embeds.bin --model stable-diffusion-v1-5/stable-diffusion-v1-5

With a prompt, the command also draws a picture, and an attention map for each word of the prompt:

    python -m reversion_jax.inspect runs/hug --prompt "cat <R> teapot"

docs/inspect.md explains the numbers and pictures, and what these cannot show.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ValueError("give one run's folder or embedding file: python -m reversion_jax.inspect FILE_OR_RUN")
    from reversion_jax.drawing import inspection  # imported here so that --help does not load JAX
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    settings = {key: flag.value for key, flag in _SETTINGS.items() if flag.value is not None}
    prompt = inspection.Prompt(_PROMPT.value, _SEED.value, settings) if _PROMPT.value else None
    source = inspection.Source(argv[1], _MODEL.value, _STEP.value, _INITIALISER.value)
    print(f"files: {inspection.inspect(source, prompt, _OUT.value)}")


if __name__ == "__main__":
    from absl import app, flags

    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    _MODEL = text(
        "model", None, "A diffusers folder, .safetensors checkpoint, hub id or miniature; default: the run's."
    )
    _STEP = whole("step", None, "Step of the run's checkpoint to inspect; default: the newest.", 0)
    _INITIALISER = text("initialiser", None, "Word that an embedding file's training began with; ReVersion's: and.")
    _PROMPT = text("prompt", None, 'A prompt to draw with attention maps, such as "cat <R> teapot".')
    _SEED = whole("seed", 0, "Seed of the prompt's picture.", 0, 2**32 - 1)
    _OUT = text(
        "out", None, "Folder for the files; default: WORKDIR/inspect of a run, inspect/NAME of an embedding file."
    )
    _SETTINGS = {
        "sample_steps": whole("steps", None, "Denoising steps; default: the run's, or 50 (miniature: 20).", 1),
        "guidance_scale": flags.DEFINE_float(
            "guidance_scale", None, "1 turns guidance off; default: the run's, or 7.5 (miniature: 3)."
        ),
        "negative_prompt": text(
            "negative_prompt", None, "What the picture should not show; default: the run's, or nothing."
        ),
        "resolution": whole("resolution", None, "Height and width, px; default: the run's, or 512 (miniature: 64).", 8),
    }
    app.run(main, flags_parser=parse_flags)
