"""Learns the spatial relation "one thing hanging from another" on Stable Diffusion 1.5.

    python -m reversion_jax.train --config configs/hanging_from.py

First put 4-10 pictures and their text.json into exemplars/hanging_from (see README.md), or name another folder by
--config.exemplars=FOLDER. Without an accelerator, train the miniature model that comes with the package instead. Its
exemplars are drawn by the program, and training takes about a minute on two CPU cores:

    python -m reversion_jax.train --config configs/hanging_from.py --config.model=miniature --workdir runs/small
"""

from ml_collections import ConfigDict

from reversion_jax import config


def get_config() -> ConfigDict:
    c = config.get_config()
    c.relation = "hanging_from"
    c.verb_weight = 0.2
    return c
