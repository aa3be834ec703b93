"""Asks people which method's pictures fit best, as Inv-ReVersion's user study does.

First, write one HTML file that contains all pictures and works without a server:

    python -m reversion_jax.study --evaluation runs/evaluation --workdir runs/study

Send study.html to the voters. Do not send key.json, which names the method of each picture. Each voter ranks pictures
and saves a votes-….json. Put these files into a folder, here votes, and compute the average user rankings:

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
        raise ValueError("give --evaluation=FOLDER to write the page, or --votes=FOLDER to count votes")
    if votes:
        print(study.count_votes(workdir, Path(votes)), end="")
    elif evaluation:
        print(study.write_page(Path(evaluation), workdir, _METHODS.value, _SETS.value, _SEED.value))


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study, for page, key and table.", required=True)
    _EVALUATION = flags.DEFINE_string("evaluation", None, "Write the page from pictures.json in this folder.")
    _VOTES = flags.DEFINE_string("votes", None, "Count the votes in the votes-….json files of this folder.")
    _METHODS = flags.DEFINE_list("methods", [], "Methods to compare, such as sd,reversion; default: all.")
    _SETS = flags.DEFINE_integer(
        "sets_per_relation", 4, "Sets to show for each relation, one prompt a set.", lower_bound=1
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Seed for choosing the sets and ordering the pictures.", lower_bound=0)
    app.run(main, flags_parser=parse_flags)
