"""Scores pictures by a CLIP; or looks at learned words beside the model's own, without a picture.

Pictures that `sample` drew, which say what they were asked for; pictures with a text.json; or those of several methods,
as an evaluation lists them in pictures.json:

    python -m reversion_jax.score --pictures runs/hug/samples/000 --relation hug --clip openai/clip-vit-base-patch16

The words of a training run, or of an embedding file:

    python -m reversion_jax.score --workdir runs/hug
    python -m reversion_jax.score --embedding learned_embeds.bin --model stable-diffusion-v1-5/stable-diffusion-v1-5

docs/scores.md says what each number means, and what it cannot see.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: pictures are given by --pictures=FOLDER")
    from reversion_jax.evaluation import scoring
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    scoring.score(
        scoring.Pictures(_PICTURES.value, _CLIP.value, _RELATION.value, _WORDS.value, _OTHER.value, _EXEMPLARS.value),
        scoring.Learned(_WORKDIR.value, _EMBEDDING.value, _MODEL.value, _INITIALISER.value),
    )


if __name__ == "__main__":
    from absl import app, flags

    _PICTURES = flags.DEFINE_string("pictures", None, "Folder of pictures; scores.json is written into it.")
    _CLIP = flags.DEFINE_string(
        "clip", None, "A CLIP that scores them: a folder as transformers writes it, or a hub id such as owner/name."
    )
    _RELATION = flags.DEFINE_string("relation", None, "One of the ReVersion Benchmark's ten, whose words are known.")
    _WORDS = flags.DEFINE_string("words", None, 'Natural words for the relation, such as "carved out of".')
    _OTHER = flags.DEFINE_multi_string(
        "other", None, "Words of a relation that it is not; may be repeated. By default those of the benchmark's."
    )
    _EXEMPLARS = flags.DEFINE_string("exemplars", None, "Folder of the exemplars: how like them are the pictures?")
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose words are looked at.")
    _EMBEDDING = flags.DEFINE_string("embedding", None, "File of learned words to look at, with --model.")
    _MODEL = flags.DEFINE_string("model", None, "The Stable Diffusion 1.x that they are for, as in `sample`.")
    _INITIALISER = flags.DEFINE_string("initialiser", "and", "The word that an embedding file's words started from.")
    app.run(main, flags_parser=parse_flags)
