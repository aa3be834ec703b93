"""CLIP's text encoder, as Stable Diffusion 1.x uses it: the last layer's normalised states; and what pools them."""

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
    """Sizes of a CLIP text encoder, by transformers' names; the defaults are Stable Diffusion 1.5's."""

    vocab_size: int = 49408
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"
    eos_token_id: int = 2  # where `end_of_text` pools; 2 stands for the highest id of the text
    # Only for other tools: the projection is not this encoder's, and the tokenizer folder has its own ids.
    projection_dim: int = 768
    bos_token_id: int = 0
    pad_token_id: int = 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CLIPTextConfig":
        """Reads transformers' text_encoder/config.json; ValueError names what is not Stable Diffusion 1.x."""
        return json_config.read(cls, values, _FIXED, strict=False)

    def to_json(self) -> dict[str, Any]:
        """The config.json that transformers.CLIPTextModel loads."""
        return json_config.write(self, _FIXED)


# Where the token table lies in the text encoder's tree.
TOKEN_TABLE = "text_model/embeddings/token_embedding/embedding"


def token_table(params: Mapping[str, Any]) -> jax.Array:
    """The frozen token embeddings [V, D] of a model's params."""
    found = params["text_encoder"]
    for name in TOKEN_TABLE.split("/"):
        found = found[name]
    return found


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), the GELU that OpenAI's CLIP was trained with."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(nn.gelu, approximate=False),
}


def end_of_text(ids: jax.Array, eos_token_id: int) -> jax.Array:
    """The position whose state stands for the whole text, [N, L] -> [N]: that of the first end token.

    Configs older than transformers 4.31 say 2, which was never CLIP's end token: the highest id, then.
    """
    return jnp.argmax(ids if eos_token_id == 2 else ids == eos_token_id, axis=-1)


class CLIPTextEncoder(nn.Module):
    """Token ids -> states. `embed` and `encode` are apart so that rows can be spliced in between."""

    config: CLIPTextConfig
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.text_model = TextModel(self.config, self.dtype)

    def embed(self, ids: jax.Array) -> jax.Array:
        """The token table's rows, [N, L] -> [N, L, D]; placeholder ids >= V get some row, to be replaced."""
        return self.text_model.embeddings.tokens(ids)

    def encode(self, embeddings: jax.Array) -> jax.Array:
        """Token embeddings without positions -> last hidden states, [N, L, D] -> [N, L, D]."""
        return self.text_model(embeddings)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.encode(self.embed(ids))


class TextModel(nn.Module):
    """Token embeddings without positions -> last hidden states, [N, L, D] -> [N, L, D]."""

    config: CLIPTextConfig
    dtype: Dtype

    def setup(self) -> None:
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, self.dtype, causal=True)
        self.final_layer_norm = LayerNorm(epsilon=self.config.layer_norm_eps, dtype=self.dtype)

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        return self.final_layer_norm(self.encoder(self.embeddings.add_positions(embeddings)))


class _Embeddings(nn.Module):
    """The tables of tokens and positions."""

    config: CLIPTextConfig
    dtype: Dtype

    def setup(self) -> None:
        c = self.config
        init = nn.initializers.normal
        self.token_embedding = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=init(0.02))
        self.position_embedding = nn.Embed(c.max_position_embeddings, c.hidden_size, embedding_init=init(0.01))

    def tokens(self, ids: jax.Array) -> jax.Array:
        """The token table's rows, [N, L] -> [N, L, D]."""
        # mode="clip": the default would turn ids >= V into NaN, which survives jnp.where's gradient.
        return jnp.take(self.token_embedding.embedding, ids, axis=0, mode="clip")

    def add_positions(self, embeddings: jax.Array) -> jax.Array:
        """Token embeddings with positions added, [N, L, D] -> [N, L, D]."""
        positions = self.position_embedding.embedding[: embeddings.shape[1]]
        return (embeddings + positions[None]).astype(self.dtype)


class Encoder(nn.Module):
    """The transformer layers of either encoder, [N, L, D] -> [N, L, D]; `config` is a text or a vision config."""

    config: Any
    dtype: Dtype
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _Layers(self.config, self.dtype, self.causal, name="layers")(x)


class _Layers(nn.Module):
    """All layers, one after the other, [N, L, D] -> [N, L, D]."""

    config: Any
    dtype: Dtype
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.config.num_hidden_layers):
            x = _Layer(self.config, self.dtype, self.causal, name=str(i))(x)
        return x


class _Layer(nn.Module):
    """Self-attention and MLP, each in a residual, [N, L, D] -> [N, L, D]."""

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
    """Multi-head attention of positions to one another, [N, L, D] -> [N, L, D]."""

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
    """Two linear layers with an activation between, [N, L, D] -> [N, L, D]."""

    config: Any
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.config.hidden_act]
        hidden = activation(Dense(self.config.intermediate_size, dtype=self.dtype, name="fc1")(x))
        return Dense(self.config.hidden_size, dtype=self.dtype, name="fc2")(hidden)
