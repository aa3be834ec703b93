"""Compares methods: trains each method, draws and scores pictures, and writes tables and contact sheets.

To make the tables of the papers, with the ReVersion Benchmark (pictures and text.json in exemplars/<relation>):

    python -m reversion_jax.evaluate --config configs/benchmark.py --config.evaluation.clip CLIP_FOLDER_OR_HUB_ID

To compare the same methods on the miniature model (a few minutes with --quick):

    python -m reversion_jax.evaluate --config configs/evaluation.py --quick

To resume, give the same command again. To add seeds, relations or methods, change the config and keep --workdir: the
new results are added to those in the folder. The command writes tables.md, .json and .csv, sheets/<relation>.png and
all pictures into WORKDIR. `study` makes a page for voters from these pictures.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: settings are given as --config.KEY=VALUE")
    from reversion_jax.evaluation.compare import evaluate
    from reversion_jax.runtime import device, files
    from reversion_jax.runtime.compilation import keep_compiled

    keep_compiled()
    device.use_cores(_CONFIG.value.model)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    tables_only, quick = _TABLES_ONLY.value, _QUICK.value
    default = files.default_workdir(config_flags.get_config_filename(flags.FLAGS["config"])) + "-quick" * quick
    print(evaluate(_CONFIG.value, _WORKDIR.value or default, quick=quick, tables_only=tables_only, given=given))


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file("config", None, "Config, such as configs/benchmark.py.", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the results; default: runs/<name of the config>.")
    _QUICK = flags.DEFINE_bool("quick", False, "Smaller comparison, as evaluation.quick in the config says.")
    _TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Only rewrite the tables, from cells.jsonl in WORKDIR.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
