"""Defines every setting: its name, unit and default, and how the method and the model choose some defaults.

This file is longer than other files, because each setting has a line and a comment.

Defaults are those of ReVersion's published run (RV, arXiv 2303.13495) unless a comment says "guess". Inv-ReVersion
(Applied Sciences 2024, 14, 3338) states no hyperparameters, so the values of the settings that it introduces are our
guesses.
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
DRAWN = "drawn"  # the value of `exemplars` that means scenes drawn by the miniature's generator

OPEN: Any = None  # the default of a setting that the model decides; `settle` replaces it


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings, frozen.

    After `settle`, no setting is OPEN. The defaults are those for Inv-ReVersion on Stable Diffusion 1.5.
    """

    # What is learned, and from what.
    # The model: a diffusers folder, a .safetensors checkpoint, a hub id (owner/name or owner/name@revision), or
    # "miniature".
    model: str = SD15
    vae: str = ""  # a VAE that replaces the model's: a folder, a .safetensors file, or a hub id; "": keep the model's
    ema: bool = False  # True: use the running average of the weights, which some .safetensors checkpoints have
    prediction_type: str = ""  # "epsilon" or "v_prediction": replaces what the model's files say; "": use the files
    clip_skip: int = 0  # number of last text encoder layers to skip, as in diffusers; A1111's "Clip skip 2" is 1 here
    # The exemplars: a folder of pictures with a text.json, or "drawn" for scenes that the package draws. Default:
    # exemplars/<relation>, or "drawn" for the miniature model.
    exemplars: str = OPEN
    num_exemplars: int = 8  # how many exemplars to draw if exemplars="drawn"; a folder's pictures are all used
    hatched: bool = False  # True: drawn exemplars are hatched, a style that no prompt names and a word may learn
    relation: str = "relation"  # names the exported files; drawn exemplars need one of the miniature's relations
    method: str = "inv_reversion"  # or "reversion" or "textual_inversion", which switch off what METHODS lists
    # <R> and <R-inv> start from the embedding of this word (RV). To continue from learned words, give their embedding
    # file or hub id: owner/name or owner/name/file.safetensors.
    initialiser: str = "and"
    rows_per_token: int = 1  # embedding rows of each of <R> and <R-inv>
    devices: int = 0  # maximum number of devices; each gets the same number of samples; 0: all devices
    weight_shards: int = 1  # devices that share one copy of the weights, to save memory; above 1 needs remat=True
    # Precision of the frozen networks: "float32", "tensorfloat32", "bfloat16" or "float16" (see runtime/precision.py).
    # "auto" is bfloat16 on TPUs and on GPUs that support it, float16 on other GPUs, and float32 on CPUs.
    precision: str = "auto"
    remat: bool = False  # True: activations take a quarter of the memory, and the UNet does a third more work
    seed: int = 0  # seed of the noise, timesteps, exemplars and words that training draws

    # Several runs that are trained together. Each entry lists the settings of one run that differ from the settings
    # here, such as ({"relation": "hug"}, {"relation": "on", "verb_weight": 0.2}). OF_RUN lists the settings that an
    # entry may have.
    runs: tuple = ()

    # Optimisation: AdamW changes only the trained rows, with a constant learning rate (RV).
    steps: int = OPEN  # optimiser steps; default 3000, miniature 400
    batch_size: int = OPEN  # samples per group; a group shares the words of the control loss; default 2, miniature 8
    accumulation: int = OPEN  # groups per step; the step averages their losses; default 4, miniature 1
    # Maximum number of samples per pass through the networks, counted over all runs. This number decides how much
    # memory a step needs, and changes results only by rounding. 0: as many samples as fit into memory. Default 0,
    # miniature 40.
    samples_at_once: int = OPEN
    resolution: int = OPEN  # height and width of the pictures, px; default 512, miniature 64
    height: int = 0  # px, for pictures that are not square; 0: the resolution
    width: int = 0  # px, for pictures that are not square; 0: the resolution
    resize: str = "squash"  # how exemplars are resized: "squash" (RV), "crop" (keeps the middle) or "pad" (adds white)
    learning_rate: float = OPEN  # default 2e-3 (RV: 2.5e-4 times its batch of 8), miniature 3e-3
    weight_decay: float = 0.01  # AdamW's weight decay
    adam_b1: float = 0.9  # AdamW's decay rate for the mean of the gradients
    adam_b2: float = 0.999  # AdamW's decay rate for the mean of the squared gradients
    adam_eps: float = 1e-8  # AdamW's epsilon, added to the denominator

    # The loss (Inv-ReVersion Eq. 10): denoise_weight * L_denoise + control_weight * L_control.
    denoise_weight: float = 1.0  # lambda_denoise, the weight of the denoising loss
    control_weight: float = 0.01  # lambda_control, the weight of the control loss
    # lambda_verb, the weight of verbs; the weight of prepositions is 1 - lambda_verb. Our guess is 0.8 for behavioural
    # relations and 0.2 for spatial relations.
    verb_weight: float = 0.5
    temperature: float = 0.07  # gamma, the temperature of the control loss
    positives_per_sample: int = 4  # number of prepositions, and of verbs, drawn for each sample
    # The negatives of the control loss. "prompts": the other words of the exemplars' prompts (RV's code). "vocabulary":
    # any whole word of the tokenizer (the paper's text). "tokens": any token, also word pieces and punctuation (named
    # "vocabulary" before 0.5).
    negatives: str = "prompts"
    vocabulary_negatives_per_sample: int = 16  # negatives drawn for each sample, unless negatives="prompts" (guess)
    prepositions: str = OPEN  # word list: a text file, or the name of a packaged list; the default suits the model
    verbs: str = OPEN  # word list: a text file, or the name of a packaged list; the default suits the model
    stop_words: str = "stop_words"  # word list, whose words are never negatives: a text file, or a packaged list's name

    # How exemplars are shown to the model.
    exemplar_draws: str = "independent"  # with replacement; "epochs": shuffled lists, 100 copies of each exemplar (RV)
    # "replace": inverse prompts "E_B <R-inv> <R> E_A" replace a share of the direct prompts. "add": every sample is
    # denoised with its direct and its inverse prompt, which doubles the networks' work. docs/sources.md compares
    # "replace" and "add".
    inverse_prompts: str = "replace"
    # Share of samples with a replaced prompt; 0: no inverse prompts, also for "add". The paper gives no share. 0.25 did
    # better than 0.5 on the miniature's tuning relations, see docs/sources.md.
    inverse_share: float = 0.25
    importance: float = 0.5  # alpha of importance sampling: larger timesteps are likelier (RV); 0: all equally likely
    # Standard deviation of the suppressor's Gaussian low-pass filter, px; 0: no filter. Default: 2 at a resolution of
    # 512 px (guess), and in proportion at other resolutions.
    suppressor_sigma_px: float = OPEN
    suppressor_target: str = "pixels"  # what the suppressor filters; or "noisy_latents", the other reading of Eq. 8

    # Progress, checkpoints and previews. None of these settings changes what is learned.
    steps_per_dispatch: int = 50  # steps per call of the compiled program, divided by the number of runs
    checkpoint_every_steps: int = OPEN  # default 500, miniature 100
    preview_every_steps: int = OPEN  # 0 disables previews; default 500, miniature 200
    # The prompts of the previews, which are drawn at step 0 and then every preview_every_steps steps, always from the
    # same noise. Default: the prompts that the model's folder sets, else our prompts for the relation, else the
    # exemplars' prompts.
    preview_prompts: tuple = OPEN
    preview_seed: int = 0  # seed of the previews' noise
    judged_prompts: int = OPEN  # unseen prompts for the judge's check, with drawn exemplars; default 0, miniature 64

    # Where metrics and previews go besides the run's folder: "tensorboard", "wandb", or "tensorboard,wandb".
    log_to: str = ""

    # Sampling, for previews and as the defaults of `sample`.
    sampler: str = "auto"  # "auto": the model's own sampler; or a name from diffusion/samplers.py, such as "ddim"
    sample_steps: int = OPEN  # denoising steps per image; default 50, miniature 20
    guidance_scale: float = OPEN  # scale of classifier-free guidance; 1: no guidance; default 7.5, miniature 3
    negative_prompt: str = ""  # what the pictures should not show
    sample_batch: int = OPEN  # images drawn together; default 4, miniature 16

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, px."""
        return self.height or self.resolution, self.width or self.resolution

    @property
    def logs(self) -> tuple[str, ...]:
        """The names in `log_to`, such as ("tensorboard", "wandb")."""
        return tuple(name.strip() for name in self.log_to.split(",") if name.strip())


# Values of open settings for Stable Diffusion 1.5. A model's folder may replace these values, see
# weights/own_settings.py.
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

# Settings that may differ between runs that are trained together. The runs share all other settings.
OF_RUN = (
    *("relation", "exemplars", "num_exemplars", "hatched", "preview_prompts", "method", "initialiser", "seed"),
    *("learning_rate", "weight_decay", "denoise_weight", "control_weight", "verb_weight", "temperature"),
    *("inverse_share", "importance", "suppressor_sigma_px"),
)

# Settings that may change when a run is resumed, because they do not change what is learned.
FREE = (
    *("devices", "weight_shards", "remat", "samples_at_once", "steps", "steps_per_dispatch"),
    *("checkpoint_every_steps", "preview_every_steps", "preview_prompts", "preview_seed", "judged_prompts"),
    *("log_to", "sample_steps", "sampler", "guidance_scale", "negative_prompt", "sample_batch"),
)


def get_config() -> ConfigDict:
    """Returns the defaults as a ConfigDict, for config files and flags. Open settings have the value None."""
    fields = dataclasses.fields(Settings)
    return ConfigDict({f.name: placeholder(f.type) if f.default is None else f.default for f in fields})


def from_dict(values: Mapping[str, Any]) -> Settings:
    """Builds Settings from values read from JSON. Missing settings get their defaults; unknown names are ignored.

    Raises TypeError if a value has the wrong type.
    """
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for field in dataclasses.fields(Settings):
        value, kind = values.get(field.name), cast(type, field.type)
        if value is not None and not isinstance(value, kind) and (kind, type(value)) != (float, int):
            raise TypeError(f"{field.name} is {value!r}, which is not of type {kind.__name__}")
    return Settings(**{name: value for name, value in values.items() if name in Settings.__dataclass_fields__})


def settle(config: ConfigDict | Settings, own: Mapping[str, Any] | None = None) -> Settings:
    """Fills in the open settings from `own`, the model's values, or else from the values for Stable Diffusion 1.5.

    The function then switches off what `method` lacks. The entries of `runs` do not change; use `each_run` to settle
    them. `preview_prompts` stays open if the model has no preview prompts. Raises ValueError, with a message of one
    line, if a value makes no sense.
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
    """Converts a ConfigDict to Settings. Raises ValueError for an unknown setting."""
    values = renamed(config.copy_and_resolve_references().to_dict())
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(no_setting(unknown[0]))
    return Settings(**values)


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Renames the settings of version 0.3 to their present names. Changes `values` in place and returns it."""
    # In version 0.3, one group of samples from each of `runs_at_once` runs went through the networks together.
    runs = values.pop("runs_at_once", None)
    if runs and not values.get("samples_at_once"):
        values["samples_at_once"] = runs * (values.get("batch_size") or FOR_SD15["batch_size"])
    return values


def no_setting(name: str) -> str:
    """Returns the error message for an unknown setting. It suggests the setting with the most similar name."""
    close = difflib.get_close_matches(name, Settings.__dataclass_fields__, n=1)
    return f"no setting {name}: " + (f"did you mean {close[0]}?" if close else "reversion_jax/config.py lists them")


def each_run(config: Settings) -> dict[str, Settings]:
    """Returns the settled settings of each run, by the run's name. If `runs` is empty, there is one run, named "".

    A run's name is made from the settings in its entry of `runs`, such as "hug-seed1". Raises ValueError, with a
    message of one line, if an entry of `runs` is not valid or two runs would have the same name.
    """
    if not config.runs:
        return {"": settle(config)}
    settled = []
    for number, own in enumerate(config.runs):
        where = f"config.runs[{number}]"
        if not isinstance(own, Mapping):
            raise ValueError(f'{where}={own!r}: each run is a dict of settings, such as {{"seed": 1}}')
        if shared := sorted(own.keys() - set(OF_RUN)):
            raise ValueError(f"{where} sets {shared[0]}: an entry of config.runs can only set {', '.join(OF_RUN)}")
        try:
            settled.append(settle(_with_own(config, own)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    # Name the runs by a few settings if these settings tell the runs apart, else by more settings.
    named: list[str] = []
    for keys in (
        ("relation", "method", "seed"),
        [key for key in OF_RUN if key not in ("exemplars", "preview_prompts")],
    ):
        named = [_name(own, keys) or run.relation for own, run in zip(config.runs, settled, strict=True)]
        if len(set(named)) == len(named):
            return dict(zip(named, settled, strict=True))
    number, name = next((number, name) for number, name in enumerate(named) if name in named[:number])
    raise ValueError(f"config.runs[{number}]: there is a run {name} already: give one of the runs another relation")


def prompts_per_sample(config: Settings) -> int:
    """Returns the number of prompts that each sample is denoised with: 2 if any run adds inverse prompts, else 1."""
    adds = config.inverse_prompts == "add" and any(run.inverse_share for run in each_run(config).values())
    return 2 if adds else 1


def _with_own(config: Settings, own: Mapping[str, Any]) -> Settings:
    """Returns the settings of one run. Raises TypeError if a value in `own` has the wrong type."""
    typed = ConfigDict({key: placeholder(field.type) for key, field in Settings.__dataclass_fields__.items()})
    typed.update({key: tuple(value) if isinstance(value, list) else value for key, value in own.items()})
    return dataclasses.replace(config, runs=(), **{key: typed[key] for key in own})


def _name(own: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns a name for a run's folder, joined from the settings in `own` that `keys` lists."""
    words = [f"{'' if key in ('relation', 'method') else key}{own[key]}" for key in keys if key in own]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words))


def check(c: Settings) -> None:
    """Raises ValueError, with a message of one line, if a settled value makes no sense."""

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
    need("relation", names_files, "files are named after it: use letters, digits and _ . - only")
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
