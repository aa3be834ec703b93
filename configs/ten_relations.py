"""The ReVersion Benchmark's ten relations in one program, on Stable Diffusion 1.5.

    python -m reversion_jax.train --config configs/ten_relations.py

with pictures and text.json of each in exemplars/<relation> (see README.md). Each relation's results go to
runs/ten_relations/<relation>, which `sample` and `export` take for --workdir. A step has 80 samples: as many as the
memory holds go through the networks together, or --config.samples_at_once=8. The result is the same.
The same on the miniature, with exemplars that it draws:

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
