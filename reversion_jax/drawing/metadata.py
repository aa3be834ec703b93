"""Makes the metadata for picture files, which says how each picture was made."""

from pathlib import Path

from reversion_jax.config import Settings
from reversion_jax.drawing.init_image import InitImage
from reversion_jax.drawing.words import Words


def of_all(found: Words, init: InitImage | None) -> dict[str, str]:
    """Returns the metadata that all pictures drawn by one command share."""
    settings = found.settings
    return {
        "model": settings.model,
        "sampler": settings.sampler,
        "steps": str(settings.sample_steps),
        "guidance_scale": str(settings.guidance_scale),
        "height": str(settings.size[0]),
        "width": str(settings.size[1]),
        "negative_prompt": settings.negative_prompt,
        "words": found.origin,
        **({"init_image": init.name, "strength": f"{init.strength:g}"} if init else {}),
    }


# The names of samplers in A1111, the Stable Diffusion web UI of AUTOMATIC1111.
_A1111 = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
}


def parameters(prompt: str, seed: int, settings: Settings, init: InitImage | None = None) -> str:
    """Returns a text that says how a picture was made, in the format of A1111, which other tools read."""
    height, width = settings.size
    values = {
        "Steps": settings.sample_steps,
        "Sampler": _A1111.get(settings.sampler, settings.sampler.upper()),
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": Path(settings.model).stem,
        **({"Clip skip": settings.clip_skip + 1} if settings.clip_skip else {}),
        **({"Denoising strength": f"{init.strength:g}"} if init else {}),
    }
    negative = [f"Negative prompt: {settings.negative_prompt}"] if settings.negative_prompt else []
    return "\n".join([prompt, *negative, ", ".join(f"{key}: {value}" for key, value in values.items())])
