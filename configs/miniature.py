"""The main job without downloads: an unnamed relation, learned and drawn by the miniature on two CPU cores.

    python -m reversion_jax.train --config configs/miniature.py

takes about a minute and leaves runs/miniature/contact_sheet.png. The relation is `hanging_from`, for which the
miniature has no word; any other of its twelve is --config.relation=hug --config.verb_weight=0.8 away.
"""

from ml_collections import ConfigDict

from reversion_jax import config


def get_config() -> ConfigDict:
    c = config.get_config()
    c.model = config.MINIATURE
    c.relation = "hanging_from"
    c.verb_weight = 0.2
    return c
