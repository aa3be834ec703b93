"""Learns a relation with the miniature model that comes with the package, without a download or an accelerator.

    python -m reversion_jax.train --config configs/miniature.py

The command takes about a minute on two CPU cores, and writes runs/miniature/contact_sheet.png. The relation is
`hanging_from`, for which the miniature model has no word. To learn another of the model's twelve relations, such as
`hug`, add --config.relation=hug --config.verb_weight=0.8.
"""

from ml_collections import ConfigDict

from reversion_jax import config


def get_config() -> ConfigDict:
    c = config.get_config()
    c.model = config.MINIATURE
    c.relation = "hanging_from"
    c.verb_weight = 0.2
    return c
