"""Learns the spatial relation "one thing on another" on Stable Diffusion 1.5.

    python -m reversion_jax.train --config configs/on.py

First put 4-10 pictures, and a text.json that describes them, into exemplars/on (see README.md), or give another folder
with --config.exemplars=FOLDER. If you have no GPU or TPU, learn the relation on the miniature model, which comes with
the package, instead of Stable Diffusion. The package draws the exemplars for the miniature model, and training takes
about a minute on two CPU cores:

    python -m reversion_jax.train --config configs/on.py --config.model=miniature --workdir runs/small
"""

from ml_collections import ConfigDict

from reversion_jax import config


def get_config() -> ConfigDict:
    c = config.get_config()
    c.relation = "on"
    c.verb_weight = 0.2
    return c
