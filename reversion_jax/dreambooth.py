"""Fine-tunes a whole model on a relation's exemplars by DreamBooth, as a baseline (see training/dreambooth.py).

    python -m reversion_jax.dreambooth --config configs/hug.py
    python -m reversion_jax.sample --model runs/hug-dreambooth/model --prompt "otter sks teapot"

The model, exemplars, seed and resolution come from the config; the flags below set all other values. The result is a
model of the same size as the original, as a diffusers folder. To resume a stopped run, give the same command again.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: settings are given as --KEY=VALUE")
    from reversion_jax.runtime import device
    from reversion_jax.runtime.compilation import keep_compiled
    from reversion_jax.training.dreambooth import make_model

    keep_compiled()
    device.use_cores(_CONFIG.value.model)
    own = {name: flag.value for name, flag in _RECIPE.items() if flag.value is not None}
    print(make_model(_CONFIG.value, _WORKDIR.value, **own))


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "A training config, such as configs/hug.py.", lock_config=True
    )
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the model; default: runs/<relation>-dreambooth.")
    _RECIPE = {
        "word": flags.DEFINE_string("word", None, "A rare word for the relation in prompts; default sks."),
        "steps": flags.DEFINE_integer("steps", None, "Training steps; default 400 (miniature: 200).", lower_bound=1),
        "batch_size": flags.DEFINE_integer(
            "batch_size", None, "Samples per step; default 4 (miniature: 8).", lower_bound=1
        ),
        "learning_rate": flags.DEFINE_float("learning_rate", None, "Default 5e-6 (miniature: 1e-4).", lower_bound=0),
        "prior_weight": flags.DEFINE_float(
            "prior_weight", None, "Weight of the loss on the original model's pictures; default 0: none.", lower_bound=0
        ),
    }
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
