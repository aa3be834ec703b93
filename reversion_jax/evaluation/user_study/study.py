"""A user study from an evaluation's pictures: the page for voters, and the table of their votes."""

from pathlib import Path

from tqdm import tqdm

from reversion_jax.evaluation.user_study import page, sets, votes
from reversion_jax.runtime import files


def write_page(evaluation: Path, workdir: Path, methods: list[str], sets_per_relation: int, seed: int) -> str:
    """Writes the page and its key from an evaluation's pictures, by all its methods if none are named.

    Returns what was written, for people.
    """
    pictures = sets.read_pictures(evaluation)
    methods = methods or list(dict.fromkeys(picture.method for picture in pictures))
    chosen = sets.choose(pictures, methods, sets_per_relation, seed)
    relations = dict.fromkeys(one.relation for one in chosen)
    exemplars = {relation: sets.read_exemplars(evaluation, relation) for relation in relations}
    made, key = page.make(chosen, methods, exemplars, lambda each: tqdm(each, "sets", disable=None))
    page.write(workdir, made, key)
    return (
        f"{len(chosen)} sets of {len(relations)} relations, pictures by {', '.join(methods)}\n"
        f"page for voters: {workdir / page.PAGE}\n"
        f"key, to keep:    {workdir / page.KEY}"
    )


def count_votes(workdir: Path, folder: Path) -> str:
    """The table of average user rankings, which is also left in `workdir`."""
    key = votes.read_key(workdir)
    ranking = votes.average_user_ranking(votes.read_votes(folder, key), key)
    table = votes.table(ranking)
    for name, text in (("aur.md", table), ("aur.json", votes.to_json(ranking))):
        files.write(workdir / name, text)
    return table
