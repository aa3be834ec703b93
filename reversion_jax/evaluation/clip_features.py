"""Computes CLIP features of pictures and texts: unit vectors in one feature space, which scores.py compares."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from PIL import Image
from tqdm import tqdm

from reversion_jax.data.exemplars import read_picture
from reversion_jax.inversion.rows import unit
from reversion_jax.models.clip_vision import CLIP, CLIPConfig
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.weights import clip_folder
from reversion_jax.weights.stored import read_json


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """CLIP's preprocessing of pictures: resizes the shorter side, crops the middle, shifts and scales the channels.

    transformers' image processor is not used, for two reasons. If torchvision is installed, the processor uses
    torchvision and returns different numbers. In addition, the name of the processor's variant for Pillow often
    changes.
    """

    resize_px: int = 224
    crop_px: int = 224
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Reads the values of transformers' preprocessor_config.json.

        Raises ValueError if the values describe another preprocessing than CLIP's.
        """
        fixed = {"resample": 3, **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), True)}
        for key, wanted in fixed.items():
            if values.get(key, wanted) != wanted:
                raise ValueError(f"{key}={values[key]!r} is not CLIP's preprocessing, which needs {wanted!r}")
        resize_px, crop_px = _side(values, "size", "shortest_edge"), _side(values, "crop_size", "height")
        channels = {key: tuple(values[f"image_{key}"]) for key in ("mean", "std") if f"image_{key}" in values}
        return cls(resize_px, crop_px, **channels)

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Preprocesses a picture of any size and mode; returns float32 [crop_px, crop_px, 3]."""
        # As in CLIPImageProcessorPil, the longer side is rounded down, and the crop's offset towards the top left.
        short = min(picture.size)
        width, height = (int(self.resize_px * side / short) for side in picture.size)
        picture = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - self.crop_px) // 2 for side in (width, height))
        pixels = np.asarray(picture.crop((left, top, left + self.crop_px, top + self.crop_px)), np.float32)
        return (pixels / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


class Clip(NamedTuple):
    """A CLIP model, loaded from its folder. `params` are on JAX's default device."""

    config: CLIPConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    preprocessing: Preprocessing


def load(model: str) -> Clip:
    """Loads a CLIP model from a folder, as transformers' CLIPModel and CLIPProcessor write it, or from a hub id.

    Raises ValueError or OSError if the model cannot be loaded.
    """
    folder = clip_folder.resolve(model)
    config = clip_folder.load_config(folder)
    tokenizer = Tokenizer.load(folder, vocab_size=config.text.vocab_size, length=config.text.max_position_embeddings)
    end, known = config.text.eos_token_id, tokenizer.backend.eos_token_id
    if end not in (2, known):
        raise ValueError(f"{folder}: texts end with token {known}, but config.json has eos_token_id={end}")
    preprocessing = _read_preprocessing(folder, config.vision.image_size)
    return Clip(config, clip_folder.load(folder)[1], tokenizer, preprocessing)


def of_pictures(
    clip: Clip, pictures: Sequence[Image.Image | Path], batch_size: int = 32, progress: str | None = None
) -> np.ndarray:
    """Returns unit vectors, float32 [N, E], of pictures, which are given as images or as files.

    progress: label of a progress bar; None: no bar. Raises ValueError or OSError if a file cannot be read.
    """
    opened = (
        picture if isinstance(picture, Image.Image) else read_picture(picture)
        for picture in tqdm(pictures, progress, disable=progress is None, mininterval=1)
    )
    embed = partial(_image_features, clip.params, config=clip.config)
    return _in_batches(embed, map(clip.preprocessing, opened), batch_size, clip)


def of_texts(clip: Clip, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Returns unit vectors, float32 [N, E], of texts. Texts with too many tokens for the model are cut."""
    ids = clip.tokenizer(texts) if len(texts) else ()
    return _in_batches(partial(_text_features, clip.params, config=clip.config), ids, batch_size, clip)


def of_sentences(clip: Clip, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns unit vectors, float32 [N, K, E], of K texts for each of N pictures. Encodes equal texts only once."""
    different, number = np.unique(sentences, return_inverse=True)
    return of_texts(clip, different.tolist())[number.reshape(np.shape(sentences))]


@partial(jax.jit, static_argnames="config")
def _image_features(params: Any, pixels: jax.Array, *, config: CLIPConfig) -> jax.Array:
    """Returns unit vectors [N, E] of preprocessed pictures [N, crop_px, crop_px, 3]."""
    return unit(nn.apply(CLIP.image_features, CLIP(config))({"params": params}, pixels))


@partial(jax.jit, static_argnames="config")
def _text_features(params: Any, ids: jax.Array, *, config: CLIPConfig) -> jax.Array:
    """Returns unit vectors [N, E] of texts with token ids [N, L]."""
    return unit(nn.apply(CLIP.text_features, CLIP(config))({"params": params}, ids))


def _in_batches(embed: Any, rows: Iterable[np.ndarray], size: int, clip: Clip) -> np.ndarray:
    """Computes `embed` on all rows, in batches of `size`; returns [N, E].

    embed: a function that maps [size, ...] to [size, E]. The last batch is filled up, so that one compiled program
    serves all batches.
    """

    def features() -> Iterator[np.ndarray]:
        left = iter(rows)
        while batch := list(islice(left, size)):
            filled = np.stack([*batch, *batch[:1] * (size - len(batch))])
            # By default a TPU multiplies in bfloat16, whose errors are as large as the differences between scores.
            with jax.default_matmul_precision("float32"):
                yield np.asarray(embed(filled))[: len(batch)]

    return np.concatenate([np.zeros((0, clip.config.projection_dim), np.float32), *features()])


def _side(values: Mapping[str, Any], key: str, name: str) -> int:
    """Returns a size in pixels. Old files store the size as a number, newer files as a dict such as {name: size}."""
    given = values.get(key, 224)
    if isinstance(given, dict):
        given = given.get(name) if len(set(given.values())) == 1 else None
    if not isinstance(given, int):
        raise ValueError(
            f"{key}={values[key]!r} is not CLIP's preprocessing, which needs a number of px or {{{name!r}: px}}"
        )
    return given


def _read_preprocessing(folder: Path, image_size: int) -> Preprocessing:
    """Reads the preprocessing of a CLIP folder; without such a file, returns the preprocessing of OpenAI's CLIP.

    The file is preprocessor_config.json or, as transformers 5 writes it, processor_config.json.
    Raises ValueError if the preprocessing does not fit the model.
    """
    own, shared = folder / "preprocessor_config.json", folder / "processor_config.json"
    values = read_json(own) if own.is_file() else read_json(shared).get("image_processor") if shared.is_file() else None
    try:
        found = Preprocessing(image_size, image_size) if values is None else Preprocessing.from_json(values)
        if found.crop_px != image_size or found.resize_px < image_size:
            raise ValueError(
                f"its preprocessing makes pictures of {found.crop_px} px, but config.json has image_size={image_size}"
            )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return found
