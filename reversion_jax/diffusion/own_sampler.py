"""The sampler that a model's own files ask for, translated from the names that diffusers uses."""

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
    """The sampler that a model's files ask for. The defaults are those of Stable Diffusion 1.5."""

    name: str = "pndm"  # a name in `samplers.SAMPLERS`
    # The spacing that the file gives, or else the default spacing of the diffusers class that the file names. Only this
    # sampler uses this spacing; for any other sampler, `Schedule.from_json` sets the spacing.
    timestep_spacing: str = "leading"
    nearest_to: str = ""  # the diffusers class that the file names, if `name` is only similar to it

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "OwnSampler":
        """Reads the scheduler_config.json of any diffusers class."""
        kind = str(values.get("_class_name", "PNDMScheduler"))
        name = next((name for name, known in _SCHEDULERS.items() if kind == known), None)
        own = "leading" if kind in ("PNDMScheduler", "DDIMScheduler") else "linspace"
        spacing = str(values.get("timestep_spacing", own))
        if name is None:
            many = any(part in kind for part in ("Multistep", "Singlestep"))
            return cls("dpmpp_2m" if many else "euler" if "Discrete" in kind else "ddim", spacing, kind)
        return cls("dpmpp_2m_karras" if name == "dpmpp_2m" and values.get("use_karras_sigmas") else name, spacing)

    def to_json(self) -> dict[str, Any]:
        """Returns the values of scheduler_config.json for this sampler; these values override `Schedule.to_json`."""
        of_kind = {"pndm": {"skip_prk_steps": True}, "dpmpp_2m_karras": {"use_karras_sigmas": True}}
        return {"_class_name": _SCHEDULERS[self.name.removesuffix("_karras")], **of_kind.get(self.name, {})}


def choose(name: str, own: OwnSampler, schedule: Schedule) -> tuple[str, Schedule]:
    """Returns the name of the sampler to use and the schedule for it.

    name: a name in `samplers.SAMPLERS`, or "auto" for the model's own sampler. Raises ValueError for any other name.
    """
    if name not in (samplers.AUTO, own.name):
        samplers.get(name)
        return name, schedule
    return own.name, dataclasses.replace(schedule, timestep_spacing=own.timestep_spacing)
