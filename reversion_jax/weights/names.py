"""One parameter, two names: the path in our (and Hugging Face's Flax) trees, the key in PyTorch files."""

import re

import numpy as np

# The VAE's attention: Flax and PyTorch files older than diffusers 0.17 against today's.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def torch_names(path: str) -> tuple[str, ...]:
    """PyTorch's names for a path such as "down_blocks_0/resnets_0/conv1/kernel", the one to write first."""
    *modules, leaf = path.split("/")
    if leaf not in _LEAVES:  # CLIP's class_embedding and logit_scale belong to no layer
        return (".".join([*modules, leaf]),)
    # Flax writes a list's index after an underscore; time_embedding's linear_1 is no list.
    dotted = [m if m.startswith("linear_") else re.sub(r"_(\d+)$", r".\1", m) for m in modules]
    variants = [[_RENAMED.get(m, m) for m in dotted], dotted]
    if dotted[0] == "text_model":
        variants.append(dotted[1:])  # models first saved by transformers 5
    return tuple(dict.fromkeys(".".join([*names, _LEAVES[leaf]]) for names in variants))


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """PyTorch's layout: convolutions OIHW out of HWIO, matrices [out, in] out of [in, out]."""
    if path.endswith("kernel"):
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return array


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch`; also takes the VAE's attention as the oldest files' 1x1 convolutions."""
    if not path.endswith("kernel"):
        return array
    if array.ndim == 4 and path.split("/")[-2] in _RENAMED and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
