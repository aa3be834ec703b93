"""The papers' tables: every method on the ReVersion Benchmark's ten relations.

    python -m reversion_jax.evaluate --config configs/benchmark.py --quick

Without --quick, all of it, see docs/benchmark.md. It needs the benchmark's exemplars, a folder for each relation in
exemplars/ (or --config.evaluation.benchmark=FOLDER, with any relations), and it scores pictures by a CLIP. `evaluation`
says what is compared; all else is a training config, so any model that `train` takes will do.
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
    """setting: "dreambooth" compares with DreamBooth as well, which needs three times the memory."""
    if setting not in ("", "dreambooth"):
        raise ValueError(f"configs/benchmark.py:{setting}: there is only configs/benchmark.py:dreambooth")
    c = config.get_config()
    c.preview_every_steps = 0
    c.evaluation = ConfigDict()
    c.evaluation.benchmark = "exemplars"  # a folder with a folder of exemplars for each relation
    c.evaluation.relations = ()  # of the benchmark; by default all that it has
    # Settings of each relation's own: see configs/hug.py and its sisters.
    c.evaluation.own = tuple((name, {"verb_weight": 0.2 if name in SPATIAL else 0.8}) for name in WORDS)
    c.evaluation.groups = ()  # of relations with tables of their own, such as (("spatial", ("on", "inside")),)
    c.evaluation.natural_words = tuple(WORDS.items())
    c.evaluation.other_words = ()  # further baselines of plain words: (("a name", (("hug", "embracing"),)),)
    c.evaluation.turned = ()  # words for a relation from the object's side: (("on", "beneath"),)
    c.evaluation.methods = (
        ("Textual Inversion", {"method": "textual_inversion"}),
        ("ReVersion", {"method": "reversion"}),
        ("Inv-ReVersion", {}),
    )
    c.evaluation.ablations = ABLATIONS
    c.evaluation.dreambooth = dataclasses.asdict(dreambooth.Recipe()) if setting else {}
    c.evaluation.seeds = (0,)  # of the training, as in the papers; more make intervals honest
    c.evaluation.prompts = 100  # of each relation: those of the benchmark's scenarios.json, or else ours
    c.evaluation.images = 10  # of each prompt, as ReVersion has it
    # A folder or hub id. Stable Diffusion reads prompts by CLIP ViT-L/14, and that CLIP is blind where the model is:
    # another one is the better judge.
    c.evaluation.clip = "openai/clip-vit-base-patch16"
    c.evaluation.quick = ConfigDict({"prompts": 10, "ablations": ()})  # a tenth of the pictures, half of the words
    return c
