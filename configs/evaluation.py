"""The methods compared and taken apart, on the miniature: every relation, every method, several seeds.

    python -m reversion_jax.evaluate --config configs/evaluation.py --quick

trains, draws and judges a part of it in some minutes; without --quick, all of it. Each cell is kept as it is done, so
the same command goes on where it was stopped. `evaluation` says what is compared, see configs/benchmark.py; all else is
a training config.

It is made hard: 100 steps, four exemplars, all of them hatched, which no prompt says. configs/evaluation.py:easy has
400 steps and eight clean exemplars, and only the relations that are reported. configs/evaluation.py:tuning is what the
settings were chosen by: two relations that are not reported, and what could be chosen in place of the ablations.
configs/evaluation.py:inverse compares, on these two relations, inverse prompts that replace direct ones with inverse
prompts that are added, at equal steps and at equal work of the networks. configs/evaluation.py:fusing draws so that
entities fuse: see docs/evaluation.md for how that was found on the two tuning relations, before any other was drawn so.
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
    "inverse": scenes.TUNING,
    "fusing": scenes.REPORTING,
}
ABLATIONS = (
    ("without inverse prompts", {"inverse_share": 0.0}),
    ("prepositions only", {"verb_weight": 0.0}),
    ("without suppressor", {"suppressor_sigma_px": 0.0}),
)
# The word of the miniature's captions that shows each relation most often, on pairs of entities that the prompts lack.
# Found by drawing 40 pairs with each of 46 words (commit 404d7ea, evaluation/cells.py, best_words).
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
# Inverse prompts that are added cost twice the networks' work.
INVERSE = (
    ("without inverse prompts", {"inverse_share": 0.0}),
    ("replaced", {}),
    ("replaced, equal work", {"steps": 200}),
    ("added", {"inverse_prompts": "add"}),
)
# With guidance below 1, and in few steps, a third of ReVersion's pictures of the tuning relations fuse.
FUSING = {"guidance_scale": 0.7, "sample_steps": 8}
# What the tuning looked at; it starts from the miniature's defaults, and CHOSEN is what came of it.
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
    c = config.get_config()
    c.model = config.MINIATURE
    c.steps = 400 if setting == "easy" else 100
    if setting != "tuning":
        c.update(CHOSEN)
    if setting == "inverse":
        c.inverse_share = 0.5  # as many as direct ones, as where they are added
    c.num_exemplars, c.hatched = {"easy": (8, False), "fusing": (4, False)}.get(setting, (4, True))
    if setting == "fusing":
        c.update(FUSING)
    c.preview_every_steps = c.judged_prompts = 0
    c.sample_batch = 20
    verb_weight = {name: 0.2 if name in SPATIAL else 0.8 for name in scenes.RELATIONS}  # as the ten configs have it
    c.evaluation = ConfigDict()
    c.evaluation.benchmark = config.DRAWN
    c.evaluation.relations = COMPARED[setting]
    # Tuples of pairs, because they keep their order, which is that of the tables.
    c.evaluation.own = tuple((name, {"verb_weight": weight}) for name, weight in verb_weight.items())
    c.evaluation.groups = (
        ("unnamed, reported", scenes.REPORTING),
        ("unnamed, for tuning", scenes.TUNING),
        ("named", scenes.NAMED),
    )
    c.evaluation.natural_words = tuple(
        scenes.PHRASES.items()
    )  # of the captions; some describe a relation without a word
    c.evaluation.other_words = (("best single word", tuple(BEST_WORDS.items())),)
    c.evaluation.turned = tuple((name, inverse[0]) for name, (_, inverse) in scenes.CAPTIONS.items() if inverse)
    c.evaluation.methods = (
        ("Textual Inversion", {"method": "textual_inversion"}),
        ("ReVersion", {"method": "reversion"}),
        ("Inv-ReVersion", {}),
    )
    c.evaluation.ablations = {"hard": ABLATIONS, "easy": (), "tuning": CHOICES, "inverse": (), "fusing": ABLATIONS}[
        setting
    ]
    # Trained for each of its cells, and then thrown away: a checkpoint on the way is not worth its time.
    recipe = dreambooth.Recipe(batch_size=8, steps=200, learning_rate=1e-4, checkpoints=1)  # the best of three
    c.evaluation.dreambooth = dataclasses.asdict(recipe)
    c.evaluation.seeds = (0, 1, 2)
    c.evaluation.prompts = 100  # of each cell, on entity pairs that neither pre-training nor exemplars show
    c.evaluation.prompt_seed = 99
    c.evaluation.images = 1  # of each prompt
    c.evaluation.clip = ""  # the miniature's judge looks at the pictures
    if setting in ("tuning", "inverse"):
        c.evaluation.seeds, c.evaluation.prompts, c.evaluation.prompt_seed = (100, 101), 50, 98
    if setting == "inverse":
        c.evaluation.seeds = (100, 101, 102, 103)
        c.evaluation.methods, c.evaluation.dreambooth = INVERSE, {}
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
