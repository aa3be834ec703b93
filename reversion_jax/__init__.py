"""Relation inversion in JAX. The names in `__all__` are the public API; all other modules may change between versions.

    import reversion_jax as rj

    model = rj.load_model("miniature")  # a folder, a .safetensors file, or a hub id
    words = rj.read_words("hug.safetensors")  # {"<R>": [1, 768]}
    images = rj.draw(model, ["otter <R> teapot"], words)
    states = rj.encode_text(model, ["otter <R> teapot"], words)
    (run,) = rj.learn(config, "runs/hug")  # from rj.get_config()
    rj.write_words(run.words(), "hug", "embeddings")

These letters name the axes of arrays in all files:

    R  runs: independent inversions that one program trains together
    N  samples in one training step of a run, or images
    G  samples in a group, which share the words of the control loss; a step has N / G groups
    K  samples per pass through the networks, counted over all runs
    P  trainable rows of a run: first the rows of <R>, then the rows of <R-inv>
    S  rows of one placeholder token
    L  token positions in a prompt
    V  tokens in the frozen vocabulary
    D  width of a token embedding
    H, W, C  height, width, channels
    T  diffusion timesteps

Images are NHWC float32 in [-1, 1]. Latents are NHWC and already multiplied by the VAE's scaling factor, so only the
VAE's file uses that factor. Token ids >= V are placeholders: id V + p means row p of the run.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reversion_jax.config import get_config as get_config
    from reversion_jax.diffusion.noise import Between as Between
    from reversion_jax.drawing.public import draw as draw
    from reversion_jax.drawing.public import encode_text as encode_text
    from reversion_jax.drawing.public import predict as predict
    from reversion_jax.runs.folder import read as read_run
    from reversion_jax.training.loop import learn as learn
    from reversion_jax.weights.embeddings import read as read_words
    from reversion_jax.weights.embeddings import write as write_words
    from reversion_jax.weights.load import load_model as load_model

# These names are imported when they are first used, so that `--help` does not wait for JAX.
_PUBLIC = {
    "Between": ("diffusion.noise", "Between"),
    "get_config": ("config", "get_config"),
    "load_model": ("weights.load", "load_model"),
    "encode_text": ("drawing.public", "encode_text"),
    "predict": ("drawing.public", "predict"),
    "draw": ("drawing.public", "draw"),
    "learn": ("training.loop", "learn"),
    "read_run": ("runs.folder", "read"),
    "read_words": ("weights.embeddings", "read"),
    "write_words": ("weights.embeddings", "write"),
}
__all__ = [
    "Between",
    "draw",
    "encode_text",
    "get_config",
    "learn",
    "load_model",
    "predict",
    "read_run",
    "read_words",
    "write_words",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
