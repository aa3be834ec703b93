"""Converts parameters between our trees, named as in Hugging Face's Flax classes, and PyTorch's names and layouts."""

import re

import numpy as np

# Layers of the VAE's attention: the names in Flax and in PyTorch files before diffusers 0.17, and today's names.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def torch_names(path: str) -> tuple[str, ...]:
    """Returns PyTorch's possible names for a path such as "down_blocks_0/resnets_0/conv1/kernel".

    The first name is used in files that we write.
    """
    *modules, leaf = path.split("/")
    if leaf not in _LEAVES:  # CLIP's class_embedding and logit_scale belong to no layer
        return (".".join([*modules, leaf]),)
    # Flax writes a list's index after an underscore. The names linear_1 and linear_2 in time_embedding hold no index.
    dotted = [m if m.startswith("linear_") else re.sub(r"_(\d+)$", r".\1", m) for m in modules]
    variants = [[_RENAMED.get(m, m) for m in dotted], dotted]
    if dotted[0] == "text_model":
        variants.append(dotted[1:])  # the name in models that were first saved by transformers 5
    return tuple(dict.fromkeys(".".join([*names, _LEAVES[leaf]]) for names in variants))


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Converts an array to PyTorch's layout: convolutions from HWIO to OIHW, matrices from [in, out] to [out, in]."""
    if path.endswith("kernel"):
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return array


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Inverts `to_torch`. Also accepts the VAE's attention as 1x1 convolutions, as the oldest files store it."""
    if not path.endswith("kernel"):
        return array
    if array.ndim == 4 and path.split("/")[-2] in _RENAMED and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
