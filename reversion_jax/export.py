"""Writes a run's learned words as files that other tools load: python -m reversion_jax.export --workdir RUN --out DIR

The command needs only the run's folder, no model and no internet connection. With --push_to_hub OWNER/NAME, it also
uploads the files to the Hugging Face hub, with a model card; docs/sharing.md lists what is sent.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --workdir and --out")
    from reversion_jax.runs import export, share
    from reversion_jax.runtime import files

    workdir, out = files.place(_WORKDIR.value), files.place(_OUT.value) if _OUT.value else None
    if _PUSH.value:
        push = share.Push(_PUSH.value, _PRIVATE.value, _LICENSE.value, _DRY_RUN.value)
        print(share.share(workdir, out, push, _STEP.value, onetrainer=_ONETRAINER.value))
    elif out is None:
        raise ValueError("give --out=DIR, or --push_to_hub=OWNER/NAME; --help says more")
    elif given := [name for name in ("private", "license", "dry_run") if flags.FLAGS[name].present]:
        raise ValueError(f"--{given[0]} is for --push_to_hub=OWNER/NAME")
    else:
        print(export.export(workdir, out, _STEP.value, onetrainer=_ONETRAINER.value))


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run.", required=True)
    _OUT = flags.DEFINE_string("out", None, "Folder for the files; use a different one for each relation.")
    _STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint to export; default: the newest.")
    _ONETRAINER = flags.DEFINE_bool("onetrainer", False, "Also write files for OneTrainer, into OUT/onetrainer.")
    _PUSH = flags.DEFINE_string(
        "push_to_hub", None, "OWNER/NAME: upload the files to this repository, creating it if needed. Needs a token."
    )
    _PRIVATE = flags.DEFINE_bool("private", False, "With --push_to_hub: make a new repository private.")
    _LICENSE = flags.DEFINE_string("license", "", "With --push_to_hub: license on the card, such as cc-by-4.0.")
    _DRY_RUN = flags.DEFINE_bool("dry_run", False, "With --push_to_hub: write all files to --out, and send nothing.")
    app.run(main, flags_parser=parse_flags)
