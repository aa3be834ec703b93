"""Writes the files that other tools load: python -m reversion_jax.export --workdir W --out DIR"""

import sys

from etils import epath

from reversion_jax import files
from reversion_jax.errors import one_line, parse_flags
from reversion_jax.inversion.prompts import INVERSE, RELATION


def export(workdir: epath.Path, out: epath.Path) -> None:
    """Writes the files of the run in `workdir` and prints how each is used; ValueError, OSError."""
    from reversion_jax import embeddings, job  # after the flags are read: --help need not load jax

    config, rows, step = job.load_rows(workdir)
    if step < config.steps:
        print(f"warning: {workdir} is at step {step} of {config.steps}: not fully trained", file=sys.stderr)
    inverted = config.inverse_share > 0
    kept = rows if inverted else rows[: config.rows_per_token]
    for path in embeddings.export(kept, config.rows_per_token, config.relation, out):
        print(usage(path, config.relation, config.rows_per_token))
    if not inverted:
        print(f"no file for {INVERSE}: the run had no inverse prompts (config.inverse_share is 0)")


def usage(path: epath.Path, relation: str, rows_per_token: int) -> str:
    """A written file's path and, for people, a line for each tool that loads it."""
    words, tokens, form = [relation], [RELATION], "cat {} stone"
    if path.stem == f"{relation}-inv":
        words, tokens, form = [path.stem, relation], [INVERSE, RELATION], "stone {} cat"
    if rows_per_token > 1:
        # With transformers 5, diffusers finds the further rows of a token only if its name is lower case.
        tokens = [token.lower() for token in tokens]
    call = f'pipe.load_textual_inversion("{path.as_posix()}", token="{tokens[0]}")'
    lines = {"diffusers": f'{call}, then "{form.format(" ".join(tokens))}"'}
    if path.suffix == ".safetensors":
        # These two call an embedding by its file's name.
        lines["A1111"] = f'copy it into embeddings, then "{form.format(" ".join(words))}"'
        named = " ".join(f"embedding:{word}" for word in words)
        lines["ComfyUI"] = f'copy it into models/embeddings, then "{form.format(named)}"'
    elif rows_per_token == 1:
        lines["ReVersion"] = f'python inference.py --only_load_embeds --model_id "{path.parent}" …'
    return "\n".join([f"{path}", *(f"  {tool:10} {line}" for tool, line in lines.items())])


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --workdir and --out")
    export(files.place(_WORKDIR.value), files.place(_OUT.value))


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
    _OUT = flags.DEFINE_string("out", None, "Where the files go: a folder of its own for each relation.", required=True)
    app.run(main, flags_parser=parse_flags)
