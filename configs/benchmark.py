"""Compares every method on the ten relations of the ReVersion Benchmark, and makes the papers' tables.

    python -m reversion_jax.evaluate --config configs/benchmark.py --quick

--quick compares a part; without it, everything is compared (see docs/benchmark.md). First put the benchmark's exemplars
into exemplars/, one folder for each relation, or name another folder by --config.evaluation.benchmark=FOLDER. The
folder may have any relations. A CLIP scores the pictures.

The settings in `evaluation` say what is compared. All other settings are as in a training config, so every model
that `train` accepts can be used.
"""

import dataclasses

from ml_collections import ConfigDict

from reversion_jax import config
from reversion_jax.data.relations import WORDS
from reversion_jax.training import dreambooth

SPATIAL = ("on", "inside", "back2back", "hanging_from")
ABLATIONS = (
    ("without inverse prompts", {"inverse_share": 0.0}),
    ("prepositions only", {"verb_weight": 0.0}),
    ("without suppressor", {"suppressor_sigma_px": 0.0}),
)


def get_config(setting: str = "") -> ConfigDict:
    """Returns the config. With the setting "dreambooth" it includes DreamBooth.

    DreamBooth needs three times the memory of the other methods.
    """
    if setting not in ("", "dreambooth"):
        raise ValueError(f"configs/benchmark.py:{setting}: unknown setting: use configs/benchmark.py:dreambooth")
    c = config.get_config()
    c.preview_every_steps = 0
    c.evaluation = ConfigDict()
    c.evaluation.benchmark = "exemplars"  # a folder that contains an exemplar folder for each relation
    c.evaluation.relations = ()  # the relations to compare; (): all that the benchmark has
    # Settings that differ between relations. They equal those in the configs of single relations, such as hug.py.
    c.evaluation.own = tuple((name, {"verb_weight": 0.2 if name in SPATIAL else 0.8}) for name in WORDS)
    # Groups of relations that get separate tables, such as (("spatial", ("on", "inside")),). (): one table of all.
    c.evaluation.groups = ()
    c.evaluation.natural_words = tuple(WORDS.items())  # the baseline of plain words: words for each relation
    c.evaluation.other_words = ()  # more baselines of plain words, such as (("a name", (("hug", "embracing"),)),)
    # Words that say a relation from the object's side, such as (("on", "beneath"),): A on B means B beneath A.
    c.evaluation.turned = ()
    # Each method with the settings that differ from this config.
    c.evaluation.methods = (
        ("Textual Inversion", {"method": "textual_inversion"}),
        ("ReVersion", {"method": "reversion"}),
        ("Inv-ReVersion", {}),
    )
    c.evaluation.ablations = ABLATIONS
    c.evaluation.dreambooth = dataclasses.asdict(dreambooth.Recipe()) if setting else {}
    c.evaluation.seeds = (0,)  # seeds of the training: one, as in the papers; more seeds make the intervals reliable
    # Prompts for each relation, from the benchmark's scenarios.json, or from the package if the benchmark has none.
    c.evaluation.prompts = 100
    c.evaluation.images = 10  # pictures for each prompt, as in ReVersion
    # A folder or hub id. Stable Diffusion has the text encoder of CLIP ViT-L/14, so CLIP ViT-L/14 would miss the same
    # errors as the model. Other CLIP models, such as ViT-B/16, judge the pictures more independently.
    c.evaluation.clip = "openai/clip-vit-base-patch16"
    # --quick draws a tenth of the prompts and leaves out the ablations, which are half of the words to learn.
    c.evaluation.quick = ConfigDict({"prompts": 10, "ablations": ()})
    return c
