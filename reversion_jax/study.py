"""Asks people which method's pictures fit best, as Inv-ReVersion's user study does.

Writes one web page with all pictures in it, which works from a file, for voters to open:

    python -m reversion_jax.study --evaluation runs/evaluation --workdir runs/study

Each ranks the pictures and saves a votes-….json; keep key.json, which says what the pictures are, to yourself. Then,
with their files in a folder, the average user rankings:

    python -m reversion_jax.study --workdir runs/study --votes votes
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --evaluation or --votes")
    from pathlib import Path

    from reversion_jax.evaluation.user_study import study

    workdir, evaluation, votes = Path(_WORKDIR.value), _EVALUATION.value, _VOTES.value
    if bool(evaluation) == bool(votes):
        raise ValueError("give --evaluation=FOLDER to write the page, or --votes=FOLDER to count votes on it")
    if votes:
        print(study.count_votes(workdir, Path(votes)), end="")
    elif evaluation:
        print(study.write_page(Path(evaluation), workdir, _METHODS.value, _SETS.value, _SEED.value))


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "The study's own folder: page, key, and table.", required=True)
    _EVALUATION = flags.DEFINE_string("evaluation", None, "Write the page from this folder's pictures.json.")
    _VOTES = flags.DEFINE_string("votes", None, "Count the votes-….json in this folder.")
    _METHODS = flags.DEFINE_list("methods", [], "Which methods to compare, such as sd,reversion; by default all.")
    _SETS = flags.DEFINE_integer("sets_per_relation", 4, "Prompts drawn of each relation.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of the choice of sets and of all orders.", lower_bound=0)
    app.run(main, flags_parser=parse_flags)
