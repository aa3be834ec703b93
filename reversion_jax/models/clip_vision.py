"""CLIP's image encoder, and the CLIP model that maps pictures and texts to vectors of one space (arXiv:2103.00020)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from reversion_jax.models import json_config
from reversion_jax.models.clip import ACTIVATIONS, CLIPTextConfig, Encoder, TextModel, end_of_text
from reversion_jax.models.layers import Dense, LayerNorm

# The defaults of transformers for keys that the config.json of a CLIP model lacks. CLIPTextConfig has Stable
# Diffusion's defaults.
_TEXT_DEFAULTS = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "projection_dim": 512,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """Sizes of a CLIP image encoder. The fields have transformers' names and defaults, which are those of ViT-B/32."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """The configurations of CLIP's two encoders, and the width of the space that the encoders share.

    Raises ValueError for an unknown activation, and for image sizes that cannot be cut into patches.
    """

    text: CLIPTextConfig
    vision: CLIPVisionConfig
    projection_dim: int = 512  # E, the width of the shared space

    def __post_init__(self) -> None:
        for part in (self.text, self.vision):
            if part.hidden_act not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ValueError(f"{type(part).__name__}: hidden_act={part.hidden_act!r} must be one of {known}")
        if self.vision.image_size % self.vision.patch_size or self.vision.num_channels != 3:
            raise ValueError(
                f"CLIPVisionConfig: image_size={self.vision.image_size} must be a multiple of "
                f"patch_size={self.vision.patch_size}, and num_channels={self.vision.num_channels} must be 3"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CLIPConfig":
        """Reads the config.json of transformers' CLIPModel. Raises ValueError for values that CLIP cannot have."""
        if values.get("model_type") != "clip":
            raise ValueError(f"model_type={values.get('model_type')!r}: not a CLIP, whose config.json has 'clip'")
        text, vision = (_tower(values, name) for name in ("text_config", "vision_config"))
        width = values.get("projection_dim")
        return cls(
            text=json_config.read(CLIPTextConfig, {**_TEXT_DEFAULTS, **text}, {}, strict=False),
            vision=json_config.read(CLIPVisionConfig, vision, {}, strict=False),
            projection_dim=cls.projection_dim if width is None else int(width),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the config.json that transformers.CLIPModel loads."""
        towers = {"text_config": json_config.write(self.text, {}), "vision_config": json_config.write(self.vision, {})}
        return {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": self.projection_dim, **towers}


class CLIP(nn.Module):
    """CLIP: two encoders that map texts and pictures to vectors [N, E] of one space.

    The vectors are not normalised; evaluation/clip_features.py scales them to length 1.
    """

    config: CLIPConfig

    def setup(self) -> None:
        c = self.config
        self.text_model = TextModel(c.text, jnp.float32)
        self.vision_model = _VisionModel(c.vision)
        self.text_projection = Dense(c.projection_dim, use_bias=False)
        self.visual_projection = Dense(c.projection_dim, use_bias=False)
        # In CLIP's training, cosines were multiplied by exp(logit_scale). Scores do not use this factor.
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())

    def text_features(self, ids: jax.Array) -> jax.Array:
        """Returns the vectors of texts, token ids [N, L] -> [N, E]."""
        states = self.text_model(self.text_model.embeddings.tokens(ids))
        end = end_of_text(ids, self.config.text.eos_token_id)
        return self.text_projection(jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0])

    def image_features(self, pixels: jax.Array) -> jax.Array:
        """Returns the vectors of preprocessed pictures, [N, image_size, image_size, 3] -> [N, E]."""
        return self.visual_projection(self.vision_model(pixels))

    def __call__(self, ids: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.text_features(ids), self.image_features(pixels)


class _VisionModel(nn.Module):
    """The image encoder: preprocessed pictures [N, image_size, image_size, 3] -> state of the first position [N, D]."""

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        eps = self.config.layer_norm_eps
        x = _PatchEmbeddings(self.config, name="embeddings")(pixels)
        x = LayerNorm(epsilon=eps, name="pre_layrnorm")(x)  # every CLIP file has this misspelling
        x = Encoder(self.config, jnp.float32, causal=False, name="encoder")(x)
        return LayerNorm(epsilon=eps, name="post_layernorm")(x[:, 0])


class _PatchEmbeddings(nn.Module):
    """Patch embeddings: pictures [N, image_size, image_size, 3] -> [N, 1 + patches, D].

    The first position represents the whole picture.
    """

    config: CLIPVisionConfig

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        c, init = self.config, nn.initializers.normal(0.02)
        size = (c.patch_size, c.patch_size)
        patches = nn.Conv(c.hidden_size, size, size, "VALID", use_bias=False, kernel_init=init, name="patch_embedding")
        x = patches(pixels)
        n, h, w, d = x.shape
        whole = jnp.broadcast_to(self.param("class_embedding", init, (d,)), (n, 1, d))
        x = jnp.concatenate([whole, x.reshape(n, h * w, d)], axis=1)
        positions = nn.Embed(1 + h * w, d, embedding_init=init, name="position_embedding")
        return x + positions(jnp.arange(1 + h * w))[None]


def _tower(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns the values of one encoder from the config.json of a CLIP model.

    Old files also have an entry "…_config_dict". In a file with "…_config_dict", only that entry counts, as in
    transformers.
    """
    given = values.get(f"{name}_dict")
    return given if given is not None else values.get(name) or {}
