"""Compares every method on the ten relations of the ReVersion Benchmark, and writes the same tables as the papers.

    python -m reversion_jax.evaluate --config configs/benchmark.py --quick

With --quick, the command draws pictures for fewer prompts and leaves out the ablations (see docs/benchmark.md). First
put the benchmark's exemplars into exemplars/, one folder for each relation, or give another folder with
--config.evaluation.benchmark=FOLDER. The folder may contain any relations, not only the benchmark's ten. A CLIP model
scores the pictures.

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
    """Returns the config. If `setting` is "dreambooth", the methods to compare include DreamBooth.

    DreamBooth needs three times the memory of the other methods.
    """
    if setting not in ("", "dreambooth"):
        raise ValueError(f"configs/benchmark.py:{setting}: unknown setting: use configs/benchmark.py:dreambooth")
    c = config.get_config()
    c.preview_every_steps = 0
    c.evaluation = ConfigDict()
    c.evaluation.benchmark = "exemplars"  # a folder that contains an exemplar folder for each relation
    c.evaluation.relations = ()  # the relations to compare; (): all that the benchmark has
    # Settings that differ between relations. The values of these settings equal those in the configs of single
    # relations, such as hug.py.
    c.evaluation.own = tuple((name, {"verb_weight": 0.2 if name in SPATIAL else 0.8}) for name in WORDS)
    # Groups of relations that get separate tables, such as (("spatial", ("on", "inside")),). (): one table of all
    # relations.
    c.evaluation.groups = ()
    c.evaluation.natural_words = tuple(WORDS.items())  # for the baseline of plain words: the words for each relation
    c.evaluation.other_words = ()  # more baselines of plain words, such as (("a name", (("hug", "embracing"),)),)
    # Words that describe a relation from the object's side, such as (("on", "beneath"),): A on B means B beneath A.
    c.evaluation.turned = ()
    # The methods to compare, each with the settings in which it differs from this config.
    c.evaluation.methods = (
        ("Textual Inversion", {"method": "textual_inversion"}),
        ("ReVersion", {"method": "reversion"}),
        ("Inv-ReVersion", {}),
    )
    c.evaluation.ablations = ABLATIONS
    c.evaluation.dreambooth = dataclasses.asdict(dreambooth.Recipe()) if setting else {}
    c.evaluation.seeds = (0,)  # training seeds; the papers use one; more seeds make the confidence intervals reliable
    # Number of prompts for each relation. The prompts come from the benchmark's scenarios.json, or from the package if
    # the benchmark has no such file.
    c.evaluation.prompts = 100
    c.evaluation.images = 10  # number of pictures for each prompt, as in ReVersion
    # The CLIP model that scores the pictures: a folder or hub id. Stable Diffusion has the text encoder of CLIP
    # ViT-L/14, so CLIP ViT-L/14 would miss the same errors as Stable Diffusion. Other CLIP models, such as ViT-B/16,
    # judge the pictures more independently.
    c.evaluation.clip = "openai/clip-vit-base-patch16"
    # --quick draws a tenth of the prompts and leaves out the ablations, for which half of all words would be learned.
    c.evaluation.quick = ConfigDict({"prompts": 10, "ablations": ()})
    return c
