"""Learns the ten relations of the ReVersion Benchmark together, on Stable Diffusion 1.5.

    python -m reversion_jax.train --config configs/ten_relations.py

First put the pictures of each relation, and a text.json that describes them, into exemplars/<relation> (see README.md).
The results of each relation go to the folder runs/ten_relations/<relation>, which can be the --workdir of `sample` and
`export`.

A step has 80 samples. As many of these samples as fit into memory go through the networks together.
--config.samples_at_once=8 limits their number to 8, which changes the results only by rounding.

To learn the ten relations on the miniature model, for which the package draws the exemplars:

    python -m reversion_jax.train --config configs/ten_relations.py --config.model=miniature --workdir runs/ten
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from reversion_jax import config
from reversion_jax.data.relations import RELATIONS


def get_config() -> ConfigDict:
    c = config.get_config()
    alone = [runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"]() for name in RELATIONS]
    own = ("relation", "verb_weight")
    c.runs = tuple({key: run[key] for key in own} for run in alone)
    return c
