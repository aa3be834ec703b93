"""Every setting once, with its unit and default, and what `method` and `model` make of the open ones.

Numbers are ReVersion's published run (RV, arXiv 2303.13495) unless marked: Inv-ReVersion (Appl. Sci. 2024, 14, 3338)
states none, so its own settings are our guesses.
"""

import re
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
MINIATURE = "miniature"


def get_config() -> ConfigDict:
    """Inv-ReVersion on Stable Diffusion 1.5. Keys set to None take a value that suits the model, see `settle`."""
    c = ConfigDict()

    # What is learned, and from what.
    # A diffusers folder, a .safetensors checkpoint, a hub id (owner/name or owner/name@revision), or "miniature": the
    # small model that comes with the package.
    c.model = SD15
    c.exemplars = placeholder(str)  # folder of pictures and text.json: exemplars/<relation>; miniature: "", drawn
    c.num_exemplars = 8  # how many the miniature draws
    c.hatched = False  # whether it draws them hatched, which no prompt says: a style that a word may leak
    c.relation = "relation"  # names the exported files; on the miniature one of its twelve relations
    c.method = "inv_reversion"  # or "reversion", "textual_inversion": see METHODS
    c.initialiser = "and"  # word whose embedding <R> and <R-inv> start from (RV)
    c.rows_per_token = 1  # embedding rows of each of <R> and <R-inv>
    c.devices = 0  # at most so many, which share the samples evenly; 0: all there are
    c.weight_shards = 1  # devices that hold the weights together, where memory asks for it; more than 1 with remat only
    c.precision = "float32"  # of the frozen text encoder and UNet; "bfloat16": half the memory, faster on TPU and GPU
    c.remat = False  # True: a quarter of the activations' memory for a third more of the UNet's work (see README)
    c.seed = 0  # of the training's noise, timesteps, exemplars and words

    # Several runs in one program, each with these settings but for its own, such as
    # ({"relation": "hug"}, {"relation": "on", "verb_weight": 0.2}); OF_RUN lists what a run may have of its own.
    c.runs = ()
    # Of them, at most so many go through the networks together: more fill a device better and need more of its memory.
    c.runs_at_once = placeholder(int)  # 0: all (default), miniature 5

    # Optimisation: AdamW on the rows alone, constant rate (RV).
    c.steps = placeholder(int)  # optimiser steps: 3000, miniature 400
    c.batch_size = placeholder(int)  # samples of a micro-batch, which share their positives: 2, miniature 8
    c.accumulation = placeholder(int)  # micro-batches a step: 4, miniature 1
    c.resolution = placeholder(int)  # px, both sides: 512, miniature 64
    c.learning_rate = placeholder(float)  # 2e-3 (RV: 2.5e-4 times its batch of 8), miniature 3e-3
    c.weight_decay = 0.01
    c.adam_b1, c.adam_b2, c.adam_eps = 0.9, 0.999, 1e-8

    # The loss (Inv-ReVersion Eq. 10): denoise_weight * L_denoise + control_weight * L_control.
    c.denoise_weight = 1.0
    c.control_weight = 0.01
    c.verb_weight = 0.5  # lambda_verb; prepositions get the rest. Guess: 0.8 behavioural, 0.2 spatial relations
    c.temperature = 0.07  # gamma
    c.positives_per_sample = 4  # prepositions, and as many verbs, drawn for each sample
    c.negatives = "prompts"  # the prompts' own other words (RV's code); "vocabulary": any (the paper's text)
    c.vocabulary_negatives_per_sample = 16  # guess
    c.prepositions = placeholder(str)  # word list: a file, or the packaged lists by name
    c.verbs = placeholder(str)
    c.stop_words = "stop_words"

    # What the model sees of the exemplars.
    c.inverse_share = 0.5  # of samples with the inverse prompt "E_B <R-inv> <R> E_A" (guess)
    c.importance = 0.5  # alpha: larger timesteps likelier (RV); 0 is uniform
    # Of the Gaussian low-pass, in px; 0 is off. By default 2 at 512 px (guess), in proportion.
    c.suppressor_sigma_px = placeholder(float)
    c.suppressor_target = "pixels"  # or "noisy_latents", the other reading of Eq. 8

    # Watching and keeping. None of these changes what is learned.
    c.steps_per_dispatch = 50  # training steps between looks at the metrics
    c.checkpoint_every_steps = placeholder(int)  # 500, miniature 100
    c.preview_every_steps = placeholder(int)  # 500, miniature 200; 0: no previews
    c.preview_prompts = ()  # drawn at step 0, then every so often, from the same noise; the miniature has its own
    c.preview_seed = 0
    c.judged_prompts = 64  # on the miniature: unseen pairs that the judge looks at, before and after; 0 = none

    # Sampling, for previews and as the defaults of `sample`.
    c.sampler = "ddim"  # see diffusion/samplers.py for the others
    c.sample_steps = placeholder(int)  # 50, miniature 20
    c.guidance_scale = placeholder(float)  # 7.5, miniature 3
    c.negative_prompt = ""
    c.sample_batch = placeholder(int)  # images drawn at once: 4, miniature 16
    return c


# What the earlier methods lack is off, whatever else the config says.
METHODS = {
    "inv_reversion": {},
    "reversion": {"verb_weight": 0.0, "inverse_share": 0.0, "suppressor_sigma_px": 0.0},
    "textual_inversion": {
        "control_weight": 0.0,
        "importance": 0.0,
        "inverse_share": 0.0,
        "suppressor_sigma_px": 0.0,
    },
}

_OPEN = {
    "full": {
        "steps": 3000,
        "batch_size": 2,
        "accumulation": 4,
        "resolution": 512,
        "learning_rate": 2e-3,
        "prepositions": "prepositions",
        "verbs": "verbs",
        "runs_at_once": 0,
        "checkpoint_every_steps": 500,
        "preview_every_steps": 500,
        "sample_steps": 50,
        "guidance_scale": 7.5,
        "sample_batch": 4,
    },
    "miniature": {
        "steps": 400,
        "batch_size": 8,
        "accumulation": 1,
        "resolution": 64,
        "learning_rate": 3e-3,
        "prepositions": "miniature_prepositions",
        "verbs": "miniature_verbs",
        "runs_at_once": 5,
        "checkpoint_every_steps": 100,
        "preview_every_steps": 200,
        "sample_steps": 20,
        "guidance_scale": 3.0,
        "sample_batch": 16,
    },
}


# What runs of one program may differ in; all else is shared.
OF_RUN = (
    *("relation", "exemplars", "num_exemplars", "hatched", "preview_prompts", "method", "initialiser", "seed"),
    *("learning_rate", "weight_decay", "denoise_weight", "control_weight", "verb_weight", "temperature"),
    *("inverse_share", "importance", "suppressor_sigma_px"),
)


def settle(config: ConfigDict) -> ConfigDict:
    """A copy without None: the open keys by `model`, then what `method` switches off. ValueError, one line.

    What belongs to a run stays open where there are several, see `each_run`.
    """
    config = config.copy_and_resolve_references().unlock()
    for key, value in _OPEN["miniature" if config.model == MINIATURE else "full"].items():
        if config[key] is None:
            config[key] = value
    if config.suppressor_sigma_px is None:
        config.suppressor_sigma_px = 2.0 * config.resolution / 512
    if config.runs:
        each_run(config)
        return config.lock()
    if config.method not in METHODS:
        raise ValueError(f"config.method={config.method!r}: use one of {', '.join(METHODS)}")
    if config.exemplars is None:
        config.exemplars = "" if config.model == MINIATURE else f"exemplars/{config.relation}"
    _check(config)
    config.update(METHODS[config.method])
    return config.lock()


def each_run(config: ConfigDict) -> dict[str, ConfigDict]:
    """The settled config of every run, by its name: its own settings, such as "hug-seed1". ValueError, one line.

    A config without `runs` is one run, named "".
    """
    if not config.runs:
        return {"": settle(config)}
    settled = []
    for number, own in enumerate(config.runs):
        where = f"config.runs[{number}]"
        if not isinstance(own, Mapping):
            raise ValueError(f'{where}={own!r}: each run is a dict of settings, such as {{"seed": 1}}')
        if shared := sorted(own.keys() - set(OF_RUN)):
            raise ValueError(f"{where} sets {shared[0]}, but a run can have only its own {', '.join(OF_RUN)}")
        run = config.copy_and_resolve_references().unlock()
        run.runs = ()
        try:
            run.update(own)
            settled.append(settle(run))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    # The shortest names that tell the runs apart.
    for keys in (
        ("relation", "method", "seed"),
        [key for key in OF_RUN if key not in ("exemplars", "preview_prompts")],
    ):
        names = [_name(own, keys) or run.relation for own, run in zip(config.runs, settled, strict=True)]
        twice = [(number, name) for number, name in enumerate(names) if name in names[:number]]
        if not twice:
            return dict(zip(names, settled, strict=True))
    number, name = twice[0]
    raise ValueError(f"config.runs[{number}]: there is a run {name} already; its relation may be any name of its own")


def _name(own: Mapping, keys: Sequence[str]) -> str:
    words = [f"{'' if key in ('relation', 'method') else key}{own[key]}" for key in keys if key in own]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words))


def _check(c: ConfigDict) -> None:
    at_least_one = (
        "steps batch_size accumulation resolution rows_per_token positives_per_sample steps_per_dispatch "
        "checkpoint_every_steps sample_steps sample_batch num_exemplars weight_shards "
        "vocabulary_negatives_per_sample"
    )
    for key in at_least_one.split():
        if c[key] < 1:
            raise ValueError(f"config.{key}={c[key]}: must be at least 1")
    if c.weight_shards > 1 and not c.remat:
        raise ValueError(f"config.weight_shards={c.weight_shards} saves memory only with config.remat=True: set both")
    for key in ("runs_at_once", "preview_every_steps", "judged_prompts"):
        if c[key] < 0:
            raise ValueError(f"config.{key}={c[key]}: must not be negative")
    for key in ("verb_weight", "inverse_share"):
        if not 0 <= c[key] <= 1:
            raise ValueError(f"config.{key}={c[key]}: must be between 0 and 1")
    if not -1 < c.importance < 1:
        raise ValueError(f"config.importance={c.importance}: must be between -1 and 1")
    for key in ("seed", "preview_seed"):
        if not 0 <= c[key] < 2**31:
            raise ValueError(f"config.{key}={c[key]}: must be between 0 and 2**31 - 1")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", c.relation):
        raise ValueError(f"config.relation={c.relation!r}: it names files, so letters, digits and _ . - only")
    if c.temperature <= 0:
        raise ValueError(f"config.temperature={c.temperature}: must be positive")
    if c.suppressor_sigma_px < 0:
        raise ValueError(f"config.suppressor_sigma_px={c.suppressor_sigma_px}: must not be negative")
    for key, choices in (
        ("precision", ("float32", "bfloat16")),
        ("negatives", ("prompts", "vocabulary")),
        ("suppressor_target", ("pixels", "noisy_latents")),
    ):
        if c[key] not in choices:
            raise ValueError(f"config.{key}={c[key]!r}: use one of {', '.join(choices)}")
