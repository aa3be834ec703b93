"""Compares methods on the miniature: trains what is missing, draws, judges, and writes tables and contact sheets.

    python -m reversion_jax.evaluate --config configs/evaluation.py --quick

The same command goes on where it was stopped. WORKDIR gets tables.md, tables.json, sheets/<relation>.png, and all
pictures, from which `study` makes a page for voters.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: settings are given as --config.KEY=VALUE")
    from reversion_jax.evaluation.compare import evaluate
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    workdir = _WORKDIR.value or ("runs/evaluation-quick" if _QUICK.value else "runs/evaluation")
    print(evaluate(_CONFIG.value, workdir, quick=_QUICK.value))
    print(f"tables: {workdir}/tables.md, pictures: {workdir}/sheets")


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file("config", None, "Such as configs/evaluation.py.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; runs/evaluation by default.")
    _QUICK = flags.DEFINE_bool("quick", False, "A part that takes some minutes, see the config's evaluation.quick.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
