"""Does the work of the command `study`: makes the page for voters, and the table of their votes."""

from pathlib import Path

from tqdm import tqdm

from reversion_jax.evaluation.user_study import page, sets, votes
from reversion_jax.runtime import files


def write_page(evaluation: Path, workdir: Path, methods: list[str], sets_per_relation: int, seed: int) -> str:
    """Writes the page and its key from an evaluation's pictures; returns a text about what was written.

    methods: the methods to compare; []: all.
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
        f"key, for you:    {workdir / page.KEY}"
    )


def count_votes(workdir: Path, folder: Path) -> str:
    """Returns the table of average user rankings. Also writes the table to aur.md and aur.json in `workdir`."""
    key = votes.read_key(workdir)
    ranking = votes.average_user_ranking(votes.read_votes(folder, key), key)
    table = votes.table(ranking)
    for name, text in (("aur.md", table), ("aur.json", votes.to_json(ranking))):
        files.write(workdir / name, text)
    return table
