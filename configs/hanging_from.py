"""One thing hanging from another: a spatial relation, on Stable Diffusion 1.5.

    python -m reversion_jax.train --config configs/hanging_from.py

with 4-10 pictures and their text.json in exemplars/hanging_from (see README.md; --config.exemplars=FOLDER for
another place). Without an accelerator, the same config on the miniature, with exemplars that it draws, takes about
a minute on two CPU cores:

    python -m reversion_jax.train --config configs/hanging_from.py --config.model=miniature --workdir runs/small
"""

from ml_collections import ConfigDict

from reversion_jax import config


def get_config() -> ConfigDict:
    c = config.get_config()
    c.relation = "hanging_from"
    c.verb_weight = 0.2
    return c
