"""Writes the files that other tools load: python -m reversion_jax.export --workdir W --out DIR"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --workdir and --out")
    from reversion_jax.runs import export
    from reversion_jax.runtime import files

    print(export.export(files.place(_WORKDIR.value), files.place(_OUT.value), _STEP.value))


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
    _OUT = flags.DEFINE_string("out", None, "Where the files go: a folder of its own for each relation.", required=True)
    _STEP = flags.DEFINE_integer("step", None, "An earlier checkpoint of the run, by its step; the newest by default.")
    app.run(main, flags_parser=parse_flags)
