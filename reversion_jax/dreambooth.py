"""Fine-tunes a model on a relation's exemplars, as DreamBooth does; a baseline, see fine_tuning.py.

    python -m reversion_jax.dreambooth --config configs/hug.py
    python -m reversion_jax.sample --model runs/hug-dreambooth/model --prompt "otter sks teapot"

Takes the config's model, exemplars, seed and resolution; its own settings are flags. The result is a model, of the size
of Stable Diffusion, not a word of a few kilobytes; it is left in diffusers' layout. A stopped run goes on.
"""

import dataclasses
from pathlib import Path

from reversion_jax.errors import one_line, parse_flags


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: settings are given as --KEY=VALUE")
    import numpy as np

    from reversion_jax import config as settings
    from reversion_jax import files, fine_tuning, job
    from reversion_jax.compilation import keep_compiled
    from reversion_jax.weights import folder

    keep_compiled()
    if _CONFIG.value.runs:
        raise ValueError("DreamBooth makes one model of one relation: give a config without runs")
    if files.is_remote(_WORKDIR.value or ""):
        raise ValueError(f"--workdir={_WORKDIR.value}: a model is written to a folder of this machine")
    c = settings.settle(_CONFIG.value)
    base = fine_tuning.MINIATURE if c.model == settings.MINIATURE else fine_tuning.Recipe()
    own = {name: flag.value for name, flag in _RECIPE.items() if flag.value is not None}
    recipe = dataclasses.replace(base, **own)
    workdir = Path(_WORKDIR.value or f"runs/{c.relation}-dreambooth")
    shown = job.load_exemplars(c)
    sd, tokenizer = job.load_model(c.model, {})
    unet = fine_tuning.train(c, recipe, sd, tokenizer, shown, workdir)
    model = workdir / "model"
    folder.save(model, sd._replace(params={**sd.params, "unet": unet}), dtype=np.float32)
    how = f"--resolution {c.resolution} --steps {c.sample_steps} --guidance_scale {c.guidance_scale}"
    print(f'draw with it: python -m reversion_jax.sample --model {model} {how} --prompt "A {recipe.word} B"')


if __name__ == "__main__":
    from absl import app, flags
    from ml_collections import config_flags

    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "A training config, such as configs/hug.py.", lock_config=True
    )
    _WORKDIR = flags.DEFINE_string("workdir", None, "Where the model goes; runs/<relation>-dreambooth by default.")
    _RECIPE = {
        "word": flags.DEFINE_string("word", None, "What stands for the relation in prompts; sks."),
        "steps": flags.DEFINE_integer("steps", None, "400 (miniature: 200).", lower_bound=1),
        "batch_size": flags.DEFINE_integer("batch_size", None, "4 (miniature: 8).", lower_bound=1),
        "learning_rate": flags.DEFINE_float("learning_rate", None, "5e-6 (miniature: 1e-4).", lower_bound=0),
        "prior_weight": flags.DEFINE_float(
            "prior_weight", None, "Of the loss on pictures that the model drew itself; 0: none.", lower_bound=0
        ),
    }
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
