"""Scores pictures by a CLIP model, or compares learned words with a model's words, without a picture.

To score the pictures of a folder: the output of `sample` (its PNGs name their prompts), a folder with a text.json, or
the folder of an evaluation (with a pictures.json):

    python -m reversion_jax.score --pictures runs/hug/samples/000 --relation hug --clip openai/clip-vit-base-patch16

To measure the learned words of a training run, or of an embedding file:

    python -m reversion_jax.score --workdir runs/hug
    python -m reversion_jax.score --embedding learned_embeds.bin --model stable-diffusion-v1-5/stable-diffusion-v1-5

docs/scores.md explains each score, and what the score cannot measure.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: give pictures by --pictures=FOLDER")
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
        "clip", None, "CLIP model for the scores: a folder as transformers writes it, or a hub id such as owner/name."
    )
    _RELATION = flags.DEFINE_string("relation", None, "One of the ten benchmark relations; sets the words for it.")
    _WORDS = flags.DEFINE_string("words", None, 'Natural words for the relation, such as "carved out of".')
    _OTHER = flags.DEFINE_multi_string(
        "other",
        None,
        "Natural words for another relation; repeatable. Default: the words for the benchmark's relations.",
    )
    _EXEMPLARS = flags.DEFINE_string(
        "exemplars", None, "Folder of exemplars, to score the similarity of pictures to them."
    )
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, to measure its learned words.")
    _EMBEDDING = flags.DEFINE_string("embedding", None, "Embedding file of learned words to measure; needs --model.")
    _MODEL = flags.DEFINE_string("model", None, "The Stable Diffusion 1.x for --embedding, as in `sample`.")
    _INITIALISER = flags.DEFINE_string("initialiser", "and", "Word that an embedding file's training began with.")
    app.run(main, flags_parser=parse_flags)
