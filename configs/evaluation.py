"""Compares the methods and their ablations on the miniature model: every relation, every method, several seeds.

    python -m reversion_jax.evaluate --config configs/evaluation.py --quick

With --quick, the command compares fewer seeds and prompts, and takes a few minutes. A cell of the comparison is one
combination of a relation, a method, a seed and a direction. The result of a cell is saved when the cell is done, so the
same command resumes a comparison that was stopped. The settings in `evaluation` say what is compared;
configs/benchmark.py explains them. All other settings are the same as in a training config.

The default setting, "hard", makes learning difficult: 100 training steps, and four exemplars, all of which are hatched
although no prompt asks for this. To choose another setting, write its name after a colon:

    configs/evaluation.py:easy       400 steps, eight exemplars without hatching, and only the reported relations.
    configs/evaluation.py:tuning     The comparison by which the settings were chosen: on two relations that are not
                                     reported, with the candidates for the settings in the place of the ablations.
    configs/evaluation.py:defaults   On the same two relations, with 400 steps and eight exemplars without hatching: the
                                     candidates for the miniature model's default settings.
    configs/evaluation.py:inverse    On the same two relations: inverse prompts that replace direct prompts against
                                     inverse prompts that are added, at equal steps and at equal work of the networks.
    configs/evaluation.py:precision  On the same two relations: words learned in float32, bfloat16 and float16.
    configs/evaluation.py:fusing     Draws with weak guidance and few steps, so that entities fuse. These settings were
                                     chosen on the two tuning relations, before any other relation was drawn with them
                                     (see docs/evaluation.md).
"""

import dataclasses

from ml_collections import ConfigDict

from reversion_jax import config
from reversion_jax.miniature import scenes
from reversion_jax.training import dreambooth

SPATIAL = ("on", "inside", "back2back", "hanging_from", "beside", "above")
COMPARED = {
    "hard": scenes.RELATIONS,
    "easy": scenes.REPORTING,
    "tuning": scenes.TUNING,
    "defaults": scenes.TUNING,
    "inverse": scenes.TUNING,
    "precision": scenes.TUNING,
    "fusing": scenes.REPORTING,
}
ABLATIONS = (
    ("without inverse prompts", {"inverse_share": 0.0}),
    ("prepositions only", {"verb_weight": 0.0}),
    ("without suppressor", {"suppressor_sigma_px": 0.0}),
)
# For each relation, the word of the captions with which the miniature model draws the relation most often. These words
# were found by drawing 40 entity pairs, none of which is in the prompts of the evaluation, with each of 46 words
# (commit 404d7ea, evaluation/cells.py, best_words).
BEST_WORDS = {
    "on": "atop",
    "inside": "within",
    "painted_on": "across",
    "shake_hands": "greeting",
    "ride_on": "aboard",
    "beside": "alongside",
    "above": "above",
    "hanging_from": "tied",
    "wrapped_in": "printed",
    "carved_by": "floating",
    "back2back": "pressed",
    "hug": "and",
}
# Adding inverse prompts doubles the work of the networks. So at "equal work", a run whose inverse prompts replace
# direct prompts has twice as many steps as a run whose inverse prompts are added.
INVERSE = (
    ("without inverse prompts", {"inverse_share": 0.0}),
    ("replaced", {}),
    ("replaced, equal work", {"steps": 200}),
    ("added", {"inverse_prompts": "add"}),
)
# Candidates for the miniature model's default settings, in the setting in which configs/miniature.py trains.
DEFAULTS = (
    ("inverse share 0.5", {}),
    ("inverse share 0.5, suppressor 1 px", {"suppressor_sigma_px": 1.0}),
    ("inverse share 0.25", {"inverse_share": 0.25}),
)
# Methods that differ only in the precision in which words are learned.
PRECISIONS = tuple((name, {"precision": name}) for name in ("float32", "bfloat16", "float16"))
# With guidance below 1 and few steps, the two entities fuse in a third of the pictures that ReVersion draws of the
# tuning relations.
FUSING = {"guidance_scale": 0.7, "sample_steps": 8}
# The candidates that "tuning" compares, as changes to the miniature model's default settings with an inverse share of
# 0.5. CHOSEN holds the candidate that was chosen.
CHOICES = (
    ("suppressor 0.5 px", {"suppressor_sigma_px": 0.5}),
    ("suppressor 1 px", {"suppressor_sigma_px": 1.0}),
    ("inverse share 0.25", {"inverse_share": 0.25}),
    ("suppressor 1 px, inverse share 0.25", {"suppressor_sigma_px": 1.0, "inverse_share": 0.25}),
    ("suppressor 1.5 px, inverse share 0.25", {"suppressor_sigma_px": 1.5, "inverse_share": 0.25}),
    ("control 0.1", {"control_weight": 0.1}),
    ("importance 0", {"importance": 0.0}),
    ("rate 1e-3", {"learning_rate": 1e-3}),
    ("rate 1e-2", {"learning_rate": 1e-2}),
)
CHOSEN = {"suppressor_sigma_px": 1.0, "inverse_share": 0.25}


def get_config(setting: str = "hard") -> ConfigDict:
    """Returns the config of a setting, one of `COMPARED`."""
    if setting not in COMPARED:
        raise ValueError(f"configs/evaluation.py:{setting}: use one of {', '.join(COMPARED)}")
    c = config.get_config()
    c.model = config.MINIATURE
    c.steps = 400 if setting in ("easy", "defaults") else 100
    if setting not in ("tuning", "defaults"):  # these two compare settings from before the choice
        c.update(CHOSEN)
    if setting in ("tuning", "defaults", "inverse"):
        # The default at the time of the first two comparisons. In "inverse", half of the prompts are inverse, just as
        # in a run that adds inverse prompts.
        c.inverse_share = 0.5
    shown = {"easy": (8, False), "defaults": (8, False), "fusing": (4, False)}
    c.num_exemplars, c.hatched = shown.get(setting, (4, True))
    if setting == "fusing":
        c.update(FUSING)
    c.preview_every_steps = c.judged_prompts = 0
    c.sample_batch = 20
    # These weights equal those in the configs of single relations, such as hug.py.
    verb_weight = {name: 0.2 if name in SPATIAL else 0.8 for name in scenes.RELATIONS}
    c.evaluation = ConfigDict()
    c.evaluation.benchmark = config.DRAWN
    c.evaluation.relations = COMPARED[setting]
    # These are tuples of pairs and not dicts, because a ConfigDict sorts its keys, but the tables need this order.
    c.evaluation.own = tuple((name, {"verb_weight": weight}) for name, weight in verb_weight.items())
    c.evaluation.groups = (
        ("unnamed, reported", scenes.REPORTING),
        ("unnamed, for tuning", scenes.TUNING),
        ("named", scenes.NAMED),
    )
    # Phrases made of the captions' words. If the captions have no word for a relation, the phrase describes the
    # relation.
    c.evaluation.natural_words = tuple(scenes.PHRASES.items())
    c.evaluation.other_words = (("best single word", tuple(BEST_WORDS.items())),)
    c.evaluation.turned = tuple((name, inverse[0]) for name, (_, inverse) in scenes.CAPTIONS.items() if inverse)
    c.evaluation.methods = (
        ("Textual Inversion", {"method": "textual_inversion"}),
        ("ReVersion", {"method": "reversion"}),
        ("Inv-ReVersion", {}),
    )
    # The setting "tuning" compares its candidates in the place of the ablations.
    c.evaluation.ablations = {"hard": ABLATIONS, "fusing": ABLATIONS, "tuning": CHOICES}.get(setting, ())
    # A DreamBooth model is trained for each cell and deleted afterwards, so it needs only one checkpoint. The number of
    # steps and the learning rate of DreamBooth are the best of three pairs that were tried.
    recipe = dreambooth.Recipe(batch_size=8, steps=200, learning_rate=1e-4, checkpoints=1)
    c.evaluation.dreambooth = dataclasses.asdict(recipe)
    c.evaluation.seeds = (0, 1, 2)
    c.evaluation.prompts = 100  # number per cell; neither the pre-training nor the exemplars show their entity pairs
    c.evaluation.prompt_seed = 99  # chooses the entity pairs of the prompts
    c.evaluation.images = 1  # number of pictures for each prompt
    c.evaluation.clip = ""  # no CLIP model, because the miniature model's judge scores the pictures
    if setting in ("tuning", "defaults", "inverse", "precision"):
        c.evaluation.seeds, c.evaluation.prompts, c.evaluation.prompt_seed = (100, 101), 50, 98
    if setting == "defaults":
        c.evaluation.seeds = (100, 101, 102)
        c.evaluation.methods, c.evaluation.dreambooth = DEFAULTS, {}
    if setting == "inverse":
        c.evaluation.seeds = (100, 101, 102, 103)
        c.evaluation.methods, c.evaluation.dreambooth = INVERSE, {}
    if setting == "precision":
        c.precision = "float32"  # the precision of drawing
        c.evaluation.seeds = tuple(range(100, 106))
        c.evaluation.methods, c.evaluation.dreambooth = PRECISIONS, {}
    if setting == "fusing":
        c.evaluation.seeds, c.evaluation.dreambooth = tuple(range(6)), {}
        c.evaluation.methods = (
            ("ReVersion", {"method": "reversion"}),
            ("Inv-ReVersion, added", {"inverse_prompts": "add"}),
            ("Inv-ReVersion", {}),
        )
    c.evaluation.quick = ConfigDict(
        {
            "relations": COMPARED["easy" if setting == "hard" else setting],
            "seeds": (0,),
            "prompts": 32,
        }
    )
    return c
