"""Asks people which method's pictures fit best, as Inv-ReVersion's user study does.

Writes one web page with all pictures in it, which works from a file, for voters to open:

    python -m reversion_jax.study --evaluation runs/evaluation --workdir runs/study

Each ranks the pictures and saves a votes-….json; keep key.json, which says what the pictures are, to yourself. Then,
with their files in a folder, the average user rankings:

    python -m reversion_jax.study --workdir runs/study --votes votes
"""

from pathlib import Path

from reversion_jax.errors import one_line, parse_flags


def write_page(evaluation: Path, workdir: Path, methods: list[str], sets_per_relation: int, seed: int) -> Path:
    """Writes the page and its key from an evaluation's pictures, by all its methods if none are named."""
    from tqdm import tqdm

    from reversion_jax.user_study import page, sets

    pictures = sets.read_pictures(evaluation)
    methods = methods or list(dict.fromkeys(picture.method for picture in pictures))
    chosen = sets.choose(pictures, methods, sets_per_relation, seed)
    relations = dict.fromkeys(one.relation for one in chosen)
    exemplars = {relation: sets.read_exemplars(evaluation, relation) for relation in relations}
    made, key = page.make(chosen, methods, exemplars, lambda each: tqdm(each, "sets", disable=None))
    page.write(workdir, made, key)
    print(f"{len(chosen)} sets of {len(relations)} relations, pictures by {', '.join(methods)}")
    return workdir / page.PAGE


def count_votes(workdir: Path, folder: Path) -> str:
    """The table of average user rankings, which is also left in `workdir`."""
    from reversion_jax.user_study import votes

    key = votes.read_key(workdir)
    ranking = votes.average_user_ranking(votes.read_votes(folder, key), key)
    table = votes.table(ranking)
    for name, text in (("aur.md", table), ("aur.json", votes.to_json(ranking))):
        partial = workdir / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(workdir / name)
    return table


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --evaluation or --votes")
    workdir = Path(_WORKDIR.value)
    if bool(_EVALUATION.value) == bool(_VOTES.value):
        raise ValueError("give --evaluation=FOLDER to write the page, or --votes=FOLDER to count votes on it")
    if _VOTES.value:
        print(count_votes(workdir, Path(_VOTES.value)), end="")
        return
    path = write_page(Path(_EVALUATION.value), workdir, _METHODS.value, _SETS.value, _SEED.value)
    print(f"page for voters: {path}")
    print(f"key, to keep:    {path.with_name('key.json')}")


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "The study's own folder: page, key, and table.", required=True)
    _EVALUATION = flags.DEFINE_string("evaluation", None, "Write the page from this folder's pictures.json.")
    _VOTES = flags.DEFINE_string("votes", None, "Count the votes-….json in this folder.")
    _METHODS = flags.DEFINE_list("methods", [], "Which methods to compare, such as sd,reversion; by default all.")
    _SETS = flags.DEFINE_integer("sets_per_relation", 4, "Prompts drawn of each relation.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of the choice of sets and of all orders.", lower_bound=0)
    app.run(main, flags_parser=parse_flags)
