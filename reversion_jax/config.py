"""Every setting once, with its unit and default, and what `method` and the model make of the open ones.

Longer than other files, because every setting has a line of its own.

Numbers are ReVersion's published run (RV, arXiv 2303.13495) unless marked: Inv-ReVersion (Appl. Sci. 2024, 14, 3338)
states none, so its own settings are our guesses.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
MINIATURE = "miniature"
DRAWN = "drawn"  # instead of a folder of exemplars: scenes of the miniature's world

OPEN: Any = None  # the default of a setting that the model decides; `settle` replaces it


@dataclasses.dataclass(frozen=True)
class Settings:
    """A settled config: frozen, and without open settings. The defaults are Inv-ReVersion on Stable Diffusion 1.5."""

    # What is learned, and from what.
    # A diffusers folder, a .safetensors checkpoint, a hub id (owner/name or owner/name@revision), or "miniature".
    model: str = SD15
    vae: str = ""  # another VAE: a folder, a .safetensors file, or a hub id
    ema: bool = False  # of a single file that keeps both, the weights' running average
    prediction_type: str = ""  # "epsilon" or "v_prediction", where the model's files do not say or are wrong
    clip_skip: int = 0  # last layers of the text encoder left out; A1111's "Clip skip 2" is 1 here, as in diffusers
    # A folder of pictures and text.json, or "drawn"; default: exemplars/<relation>, on the miniature "drawn".
    exemplars: str = OPEN
    num_exemplars: int = 8  # of drawn exemplars
    hatched: bool = False  # drawn exemplars are hatched, which no prompt says: a style that a word may leak
    relation: str = "relation"  # names the exported files; of drawn exemplars one of the miniature's twelve relations
    method: str = "inv_reversion"  # or "reversion", "textual_inversion": see METHODS
    # The word whose embedding <R> and <R-inv> start from (RV); or what to go on from: an embedding file, or a hub id,
    # owner/name or owner/name/file.safetensors.
    initialiser: str = "and"
    rows_per_token: int = 1  # embedding rows of each of <R> and <R-inv>
    devices: int = 0  # maximum number of devices, which share the samples evenly; 0: all
    weight_shards: int = 1  # devices that hold the weights together, where memory asks for it; above 1 needs remat
    # Of the frozen networks: "float32", "tensorfloat32", "bfloat16" or "float16", see runtime/precision.py; "auto" is
    # bfloat16 on TPUs and GPUs that have it, float16 on other GPUs, float32 on CPUs.
    precision: str = "auto"
    remat: bool = False  # True: a quarter of the activations' memory for a third more of the UNet's work
    seed: int = 0  # of the training's noise, timesteps, exemplars and words

    # Several runs in one program, each with these settings but for its own, such as
    # ({"relation": "hug"}, {"relation": "on", "verb_weight": 0.2}). OF_RUN lists what a run may have of its own.
    runs: tuple = ()

    # Optimisation: AdamW on the rows alone, constant rate (RV).
    steps: int = OPEN  # optimiser steps: 3000, miniature 400
    batch_size: int = OPEN  # samples of a group, which share the words of the control loss: 2, miniature 8
    accumulation: int = OPEN  # groups a step, whose losses are averaged: 4, miniature 1
    # Samples, of all runs, that go through the networks together. Their number decides how much memory a step needs. It
    # changes results by rounding alone. 0: as many as the memory holds (default), miniature 40.
    samples_at_once: int = OPEN
    resolution: int = OPEN  # px, both sides: 512, miniature 64
    height: int = 0  # px, where pictures are not square; 0: the resolution
    width: int = 0
    resize: str = "squash"  # exemplars of another shape, as published; or "crop" (the middle), "pad" (with white)
    learning_rate: float = OPEN  # 2e-3 (RV: 2.5e-4 times its batch of 8), miniature 3e-3
    weight_decay: float = 0.01
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8

    # The loss (Inv-ReVersion Eq. 10): denoise_weight * L_denoise + control_weight * L_control.
    denoise_weight: float = 1.0
    control_weight: float = 0.01
    verb_weight: float = 0.5  # lambda_verb; prepositions get the rest. Guess: 0.8 behavioural, 0.2 spatial relations
    temperature: float = 0.07  # gamma
    positives_per_sample: int = 4  # prepositions, and as many verbs, drawn for each sample
    # The prompts' own other words (RV's code); "vocabulary": any whole word of the tokenizer's (the paper's text);
    # "tokens": any token, pieces of words and punctuation included, as "vocabulary" was before version 0.5.
    negatives: str = "prompts"
    vocabulary_negatives_per_sample: int = 16  # guess
    prepositions: str = OPEN  # word list: a file, or the packaged lists by name
    verbs: str = OPEN
    stop_words: str = "stop_words"

    # How exemplars are shown to the model.
    exemplar_draws: str = "independent"  # or "epochs": permutations of 100 copies of each exemplar, as RV's loader
    # Inverse prompts "E_B <R-inv> <R> E_A" replace a share of the direct ones; or "add": every sample is denoised with
    # both of its prompts, at twice the networks' work. docs/sources.md compares the two.
    inverse_prompts: str = "replace"
    inverse_share: float = 0.5  # of samples whose prompt is replaced (guess); 0: no inverse prompts, by "add" neither
    importance: float = 0.5  # alpha: larger timesteps likelier (RV); 0 is uniform
    # Of the Gaussian low-pass, in px; 0 is off. Default: 2 at 512 px (guess), in proportion.
    suppressor_sigma_px: float = OPEN
    suppressor_target: str = "pixels"  # or "noisy_latents", the other reading of Eq. 8

    # Watching and keeping. None of these changes what is learned.
    steps_per_dispatch: int = 50  # training steps between looks at the metrics
    checkpoint_every_steps: int = OPEN  # 500, miniature 100
    preview_every_steps: int = OPEN  # 500, miniature 200; 0 disables previews
    # Drawn at step 0, then every preview_every_steps, always from the same noise. Default: the model's own prompts.
    preview_prompts: tuple = OPEN
    preview_seed: int = 0
    judged_prompts: int = OPEN  # of drawn exemplars: unseen pairs that the judge looks at; 0: none, miniature 64

    # Where metrics and previews go besides the run's folder: "tensorboard", "wandb", or both with a comma.
    log_to: str = ""

    # Sampling, for previews and as the defaults of `sample`.
    sampler: str = "auto"  # the model's own; or "ddim" or another of diffusion/samplers.py
    sample_steps: int = OPEN  # 50, miniature 20
    guidance_scale: float = OPEN  # 7.5, miniature 3
    negative_prompt: str = ""
    sample_batch: int = OPEN  # images drawn at once: 4, miniature 16

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of pictures, px."""
        return self.height or self.resolution, self.width or self.resolution

    @property
    def logs(self) -> tuple[str, ...]:
        """The tools that `log_to` names."""
        return tuple(name.strip() for name in self.log_to.split(",") if name.strip())


# What suits Stable Diffusion 1.5. Another model's folder may say otherwise, see weights/own_settings.py.
FOR_SD15: Mapping[str, Any] = {
    "steps": 3000,
    "batch_size": 2,
    "accumulation": 4,
    "resolution": 512,
    "learning_rate": 2e-3,
    "prepositions": "prepositions",
    "verbs": "verbs",
    "samples_at_once": 0,
    "checkpoint_every_steps": 500,
    "preview_every_steps": 500,
    "judged_prompts": 0,
    "sample_steps": 50,
    "guidance_scale": 7.5,
    "sample_batch": 4,
}

# Overrides that switch off what each earlier method lacks.
_EARLIER = {"inverse_share": 0.0, "suppressor_sigma_px": 0.0}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "inv_reversion": {},
    "reversion": {"verb_weight": 0.0, **_EARLIER},
    "textual_inversion": {"control_weight": 0.0, "importance": 0.0, **_EARLIER},
}

# What the runs of one program may differ in. They share all other settings.
OF_RUN = (
    *("relation", "exemplars", "num_exemplars", "hatched", "preview_prompts", "method", "initialiser", "seed"),
    *("learning_rate", "weight_decay", "denoise_weight", "control_weight", "verb_weight", "temperature"),
    *("inverse_share", "importance", "suppressor_sigma_px"),
)

# What may change when a run is taken up again, because it does not touch what is learned.
FREE = (
    *("devices", "weight_shards", "remat", "samples_at_once", "steps", "steps_per_dispatch"),
    *("checkpoint_every_steps", "preview_every_steps", "preview_prompts", "preview_seed", "judged_prompts"),
    *("log_to", "sample_steps", "sampler", "guidance_scale", "negative_prompt", "sample_batch"),
)


def get_config() -> ConfigDict:
    """The defaults as a ConfigDict, for config files and flags. Open settings are None there."""
    fields = dataclasses.fields(Settings)
    return ConfigDict({f.name: placeholder(f.type) if f.default is None else f.default for f in fields})


def from_dict(values: Mapping[str, Any]) -> Settings:
    """Settings from JSON's values; a setting that they lack has its default. TypeError for one of another type."""
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for field in dataclasses.fields(Settings):
        value, kind = values.get(field.name), cast(type, field.type)
        if value is not None and not isinstance(value, kind) and (kind, type(value)) != (float, int):
            raise TypeError(f"{field.name} is {value!r}, no {kind.__name__}")
    return Settings(**{name: value for name, value in values.items() if name in Settings.__dataclass_fields__})


def settle(config: ConfigDict | Settings, own: Mapping[str, Any] | None = None) -> Settings:
    """The settings without open ones: those become `own`, the model's, or Stable Diffusion's. ValueError, one line.

    Then what `method` lacks is switched off. Where there are several runs, what belongs to a run stays as it is, see
    `each_run`. Preview prompts stay open where the model has none of its own.
    """
    c = config if isinstance(config, Settings) else _frozen(config)
    defaults = {**FOR_SD15, **(own or {})}
    c = dataclasses.replace(c, **{key: v for key, v in defaults.items() if getattr(c, key) is None})
    if c.suppressor_sigma_px is None:
        c = dataclasses.replace(c, suppressor_sigma_px=2.0 * c.resolution / 512)
    if c.runs:
        each_run(c)
        return c
    if c.method not in METHODS:
        raise ValueError(f"config.method={c.method!r}: use one of {', '.join(METHODS)}")
    if c.exemplars is None:
        c = dataclasses.replace(c, exemplars=f"exemplars/{c.relation}")
    check(c)
    return dataclasses.replace(c, **METHODS[c.method])


def _frozen(config: ConfigDict) -> Settings:
    values = renamed(config.copy_and_resolve_references().to_dict())
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(no_setting(unknown[0]))
    return Settings(**values)


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as version 0.3 had them, by today's names; `values` is changed."""
    runs = values.pop("runs_at_once", None)  # whose samples of one group went through the networks together
    if runs and not values.get("samples_at_once"):
        values["samples_at_once"] = runs * (values.get("batch_size") or FOR_SD15["batch_size"])
    return values


def no_setting(name: str) -> str:
    """What to say of a setting that there is not: which one may be meant."""
    close = difflib.get_close_matches(name, Settings.__dataclass_fields__, n=1)
    return f"no setting {name}: " + (f"did you mean {close[0]}?" if close else "reversion_jax/config.py lists them")


def each_run(config: Settings) -> dict[str, Settings]:
    """The settled settings of every run, by its name: its own settings, such as "hug-seed1". ValueError, one line.

    Settings without `runs` are one run, named "".
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
        try:
            settled.append(settle(_with_own(config, own)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    # The shortest names that tell the runs apart.
    named: list[str] = []
    for keys in (
        ("relation", "method", "seed"),
        [key for key in OF_RUN if key not in ("exemplars", "preview_prompts")],
    ):
        named = [_name(own, keys) or run.relation for own, run in zip(config.runs, settled, strict=True)]
        if len(set(named)) == len(named):
            return dict(zip(named, settled, strict=True))
    number, name = next((number, name) for number, name in enumerate(named) if name in named[:number])
    raise ValueError(f"config.runs[{number}]: there is a run {name} already; its relation may be any name of its own")


def prompts_per_sample(config: Settings) -> int:
    """How many prompts each sample is denoised with: 2 if any run adds inverse prompts to the direct ones, else 1."""
    adds = config.inverse_prompts == "add" and any(run.inverse_share for run in each_run(config).values())
    return 2 if adds else 1


def _with_own(config: Settings, own: Mapping[str, Any]) -> Settings:
    """The settings of one run, its own values checked for their types."""
    typed = ConfigDict({key: placeholder(field.type) for key, field in Settings.__dataclass_fields__.items()})
    typed.update({key: tuple(value) if isinstance(value, list) else value for key, value in own.items()})
    return dataclasses.replace(config, runs=(), **{key: typed[key] for key in own})


def _name(own: Mapping[str, Any], keys: Sequence[str]) -> str:
    words = [f"{'' if key in ('relation', 'method') else key}{own[key]}" for key in keys if key in own]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words))


def check(c: Settings) -> None:
    """ValueError, one line, for a settled value that makes no sense."""

    def need(keys: str, fits: Callable[[Any], Any], rule: str) -> None:
        for key in keys.split():
            if not fits(getattr(c, key)):
                raise ValueError(f"config.{key}={getattr(c, key)!r}: {rule}")

    floats = " ".join(field.name for field in dataclasses.fields(c) if isinstance(getattr(c, field.name), float))
    need(floats, math.isfinite, "must be a number, and finite")
    need(
        "steps batch_size accumulation resolution rows_per_token positives_per_sample steps_per_dispatch "
        "checkpoint_every_steps sample_steps sample_batch num_exemplars weight_shards vocabulary_negatives_per_sample",
        lambda value: value >= 1,
        "must be at least 1",
    )
    if c.weight_shards > 1 and not c.remat:
        raise ValueError(f"config.weight_shards={c.weight_shards} saves memory only with config.remat=True: set both")
    not_negative = (
        "samples_at_once preview_every_steps judged_prompts suppressor_sigma_px learning_rate weight_decay "
        "denoise_weight control_weight guidance_scale devices clip_skip height width"
    )
    need(not_negative, lambda value: value >= 0, "must not be negative")
    need("verb_weight inverse_share", lambda value: 0 <= value <= 1, "must be between 0 and 1")
    need("adam_b1 adam_b2", lambda value: 0 <= value < 1, "must be at least 0, and below 1")
    need("importance", lambda value: -1 < value < 1, "must be between -1 and 1")
    need("seed preview_seed", lambda value: 0 <= value < 2**31, "must be between 0 and 2**31 - 1")
    names_files = lambda value: re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", value)
    need("relation", names_files, "it names files, so letters, digits and _ . - only")
    need("temperature adam_eps", lambda value: value > 0, "must be positive")
    if c.denoise_weight == c.control_weight == 0:
        raise ValueError("config.denoise_weight and config.control_weight are both 0: nothing would be learned")
    if unknown := sorted(set(c.logs) - {"tensorboard", "wandb"}):
        raise ValueError(f"config.log_to={c.log_to!r}: {unknown[0]!r} is not known, use tensorboard, wandb or both")
    choices = {
        "precision": ("auto", "float32", "tensorfloat32", "bfloat16", "float16"),
        "negatives": ("prompts", "vocabulary", "tokens"),
        "inverse_prompts": ("replace", "add"),
        "suppressor_target": ("pixels", "noisy_latents"),
        "exemplar_draws": ("independent", "epochs"),
        "resize": ("squash", "crop", "pad"),
        "prediction_type": ("", "epsilon", "v_prediction"),
    }
    for key, known in choices.items():
        need(key, known.__contains__, f"use one of {', '.join(filter(None, known))}")
