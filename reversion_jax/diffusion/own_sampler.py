"""The sampler that a model's own files ask for, by diffusers' names."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from reversion_jax.diffusion import samplers
from reversion_jax.diffusion.schedule import Schedule

_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
}


class OwnSampler(NamedTuple):
    """The sampler that a model's files ask for; the defaults are Stable Diffusion 1.5's."""

    name: str = "pndm"
    # What its scheduler takes where the file does not say. Another sampler takes "leading" there.
    timestep_spacing: str = "leading"
    nearest_to: str = ""  # the scheduler that we do not have

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "OwnSampler":
        """Reads a diffusers scheduler_config.json, of whatever class."""
        kind = str(values.get("_class_name", "PNDMScheduler"))
        name = next((name for name, known in _SCHEDULERS.items() if kind == known), None)
        own = "leading" if kind in ("PNDMScheduler", "DDIMScheduler") else "linspace"
        spacing = str(values.get("timestep_spacing", own))
        if name is None:
            many = any(part in kind for part in ("Multistep", "Singlestep"))
            return cls("dpmpp_2m" if many else "euler" if "Discrete" in kind else "ddim", spacing, kind)
        return cls("dpmpp_2m_karras" if name == "dpmpp_2m" and values.get("use_karras_sigmas") else name, spacing)

    def to_json(self) -> dict[str, Any]:
        """What a scheduler_config.json says of it, over what `Schedule.to_json` says."""
        of_kind = {"pndm": {"skip_prk_steps": True}, "dpmpp_2m_karras": {"use_karras_sigmas": True}}
        return {"_class_name": _SCHEDULERS[self.name.removesuffix("_karras")], **of_kind.get(self.name, {})}


def choose(name: str, own: OwnSampler, schedule: Schedule) -> tuple[str, Schedule]:
    """The sampler by its name, "auto" being the model's own, and the schedule for it. ValueError as `samplers.get`."""
    if name not in (samplers.AUTO, own.name):
        samplers.get(name)
        return name, schedule
    return own.name, dataclasses.replace(schedule, timestep_spacing=own.timestep_spacing)
