"""CLIP's text encoder.

Stable Diffusion 1.x uses the normalised states of the last layer. CLIP itself pools the states to one state per text.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from reversion_jax.models import json_config
from reversion_jax.models.attention import attention
from reversion_jax.models.layers import Dense, LayerNorm

_FIXED = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
}


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of a CLIP text encoder. The fields have transformers' names, and Stable Diffusion 1.5's defaults."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"
    eos_token_id: int = 2  # the token that `end_of_text` looks for; 2 means the highest id in the text
    # The next three fields are written for other tools, and not used here: this encoder has no projection, and the
    # tokenizer's folder has its own ids.
    projection_dim: int = 768
    bos_token_id: int = 0
    pad_token_id: int = 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CLIPTextConfig":
        """Reads transformers' text_encoder/config.json. Raises ValueError if it is not for Stable Diffusion 1.x."""
        return json_config.read(cls, values, _FIXED, strict=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the config.json that transformers.CLIPTextModel loads."""
        return json_config.write(self, _FIXED)


# The path of the token table in the text encoder's parameter tree.
TOKEN_TABLE = "text_model/embeddings/token_embedding/embedding"


def token_table(params: Mapping[str, Any]) -> jax.Array:
    """Returns the frozen token embeddings [V, D] from the parameters of a model."""
    found = params["text_encoder"]
    for name in TOKEN_TABLE.split("/"):
        found = found[name]
    return found


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns x sigmoid(1.702 x), the approximation of GELU with which OpenAI's CLIP was trained."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(nn.gelu, approximate=False),
}


def end_of_text(ids: jax.Array, eos_token_id: int) -> jax.Array:
    """Returns the position of the first end token, whose state represents the whole text, ids [N, L] -> [N].

    If eos_token_id is 2, the position of the highest id is returned instead. Configs from before transformers 4.31 say
    2, although 2 was never CLIP's end token; the end token has the highest id.
    """
    return jnp.argmax(ids if eos_token_id == 2 else ids == eos_token_id, axis=-1)


class CLIPTextEncoder(nn.Module):
    """CLIP's text encoder, ids [N, L] -> states [N, L, D].

    `embed` and `encode` are separate, so that trainable rows can replace embeddings between the two calls.
    """

    config: CLIPTextConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.text_model = TextModel(self.config, self.dtype)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Looks up token embeddings, ids [N, L] -> [N, L, D].

        Placeholder ids (V or more) get an arbitrary row of the table, which the caller replaces.
        """
        return self.text_model.embeddings.tokens(ids)

    def encode(self, embeddings: jax.Array) -> jax.Array:
        """Encodes token embeddings without positions to the last layer's states, [N, L, D] -> [N, L, D]."""
        return self.text_model(embeddings)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.encode(self.embed(ids))


class TextModel(nn.Module):
    """The text encoder after the token embeddings: embeddings without positions [N, L, D] -> states [N, L, D]."""

    config: CLIPTextConfig
    dtype: Dtype

    def setup(self) -> None:
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, self.dtype, causal=True)
        self.final_layer_norm = LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype)

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        return self.final_layer_norm(self.encoder(self.embeddings.add_positions(embeddings)))


class _Embeddings(nn.Module):
    """The embedding tables of tokens and positions."""

    config: CLIPTextConfig
    dtype: Dtype

    def setup(self) -> None:
        c = self.config
        init = nn.initializers.normal
        self.token_embedding = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=init(0.02))
        self.position_embedding = nn.Embed(c.max_position_embeddings, c.hidden_size, embedding_init=init(0.01))

    def tokens(self, ids: jax.Array) -> jax.Array:
        """Looks up token embeddings, ids [N, L] -> [N, L, D]."""
        # The mode is "clip", because the default mode gives NaN for ids >= V. If jnp.where replaced the NaN later, the
        # gradient would still be NaN.
        return jnp.take(self.token_embedding.embedding, ids, axis=0, mode="clip")

    def add_positions(self, embeddings: jax.Array) -> jax.Array:
        """Adds position embeddings to token embeddings, [N, L, D] -> [N, L, D]."""
        positions = self.position_embedding.embedding[: embeddings.shape[1]]
        return (embeddings + positions[None]).astype(self.dtype)


class Encoder(nn.Module):
    """The transformer layers of CLIP's text or image encoder, [N, L, D] -> [N, L, D]."""

    config: Any  # CLIPTextConfig or CLIPVisionConfig
    dtype: Dtype
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _Layers(self.config, self.dtype, self.causal, name="layers")(x)


class _Layers(nn.Module):
    """The transformer layers of `Encoder`, one after the other, [N, L, D] -> [N, L, D]."""

    config: Any
    dtype: Dtype
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.config.num_hidden_layers):
            x = _Layer(self.config, self.dtype, self.causal, name=str(i))(x)
        return x


@nn.jit  # all layers have the same shapes, so one trace serves all; see layers.py
class _Layer(nn.Module):
    """One transformer layer: self-attention and MLP, each with a residual connection, [N, L, D] -> [N, L, D]."""

    config: Any
    dtype: Dtype
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        eps = self.config.layer_norm_eps
        hidden = LayerNorm(epsilon=eps, dtype=self.dtype, name="layer_norm1")(x)
        x = x + _SelfAttention(self.config, self.dtype, self.causal, name="self_attn")(hidden)
        hidden = LayerNorm(epsilon=eps, dtype=self.dtype, name="layer_norm2")(x)
        return x + _MLP(self.config, self.dtype, name="mlp")(hidden)


class _SelfAttention(nn.Module):
    """Multi-head self-attention, [N, L, D] -> [N, L, D]."""

    config: Any
    dtype: Dtype
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        project = functools.partial(Dense, self.config.hidden_size, dtype=self.dtype)
        query, key, value = (project(name=name)(x) for name in ("q_proj", "k_proj", "v_proj"))
        hidden = attention(query, key, value, self.config.num_attention_heads, self.causal)
        return project(name="out_proj")(hidden)


class _MLP(nn.Module):
    """Two linear layers with an activation between them, [N, L, D] -> [N, L, D]."""

    config: Any
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.config.hidden_act]
        hidden = activation(Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x))
        return Dense(self.config.hidden_size, dtype=self.dtype, name="fc2")(hidden)
