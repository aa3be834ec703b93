"""Compares methods: trains what is missing, draws, scores, and writes tables and contact sheets.

The papers' tables, on Stable Diffusion and the ReVersion Benchmark (exemplars/<relation>, text.json in each):

    python -m reversion_jax.evaluate --config configs/benchmark.py --config.evaluation.clip CLIP_FOLDER_OR_HUB_ID

The methods on the miniature, a part of it in some minutes:

    python -m reversion_jax.evaluate --config configs/evaluation.py --quick

The same command goes on where it was stopped. With other seeds, relations or methods in the same --workdir, their
cells join those that are there. WORKDIR gets tables.md, .json and .csv, sheets/<relation>.png, and all pictures, from
which `study` makes a page for voters.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: settings are given as --config.KEY=VALUE")
    from reversion_jax.evaluation.compare import evaluate
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    given = config_flags.get_override_values(flags.FLAGS["config"])
    tables_only, quick = _TABLES_ONLY.value, _QUICK.value
    print(evaluate(_CONFIG.value, _WORKDIR.value, quick=quick, tables_only=tables_only, given=given))


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file("config", None, "Such as configs/benchmark.py.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; runs/benchmark or runs/evaluation by default.")
    _QUICK = flags.DEFINE_bool("quick", False, "A part of it, see the config's evaluation.quick.")
    _TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Make the tables again, of WORKDIR's cells.jsonl alone.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
