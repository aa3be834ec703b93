"""Learns a relation from exemplars: python -m reversion_jax.train --config configs/miniature.py

Flags override any setting of the config, such as --config.model=miniature --config.steps=100. All settings and their
meanings are in reversion_jax/config.py. To resume a stopped run, give the same command again.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: settings are given as --config.KEY=VALUE")
    from reversion_jax.runtime import device, files, parallel  # imported here so that --help does not load JAX
    from reversion_jax.runtime.compilation import keep_compiled
    from reversion_jax.training.loop import train

    default = files.default_workdir(config_flags.get_config_filename(flags.FLAGS["config"]))
    workdir = files.place(_WORKDIR.value or default)
    keep_compiled()
    if _DISTRIBUTED.value:
        parallel.start()
    else:
        device.use_cores(_CONFIG.value.model)
    train(_CONFIG.value, workdir)


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/hug.py.", lock_config=True)
    _WORKDIR = flags.DEFINE_string(
        "workdir", None, "Folder for the results, or gs://bucket/folder; default: runs/<name of the config file>."
    )
    _DISTRIBUTED = flags.DEFINE_bool(
        "distributed",
        False,
        "This process is one of several that run the same command together. They find each other on TPU pods, under "
        "Slurm and Open MPI; elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
    )
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
