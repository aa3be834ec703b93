"""Reads a model's own words, with their vectors and kinds, for comparison with learned words."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from reversion_jax.config import Settings
from reversion_jax.inversion import words
from reversion_jax.models.clip import TOKEN_TABLE, token_table
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runtime.errors import warn
from reversion_jax.weights.load import open_model
from reversion_jax.weights.variant import Variant

# Kinds of words. A whole word on none of the word lists is OTHER; no list distinguishes nouns from adjectives or names.
PREPOSITION, VERB, STOP, OTHER, PIECE = "preposition", "verb", "stop word", "noun or other", "part of a word"
_OTHERS = 1500  # how many words, besides prepositions and verbs, `kept` returns


def read_table(settings: Settings) -> tuple[jax.Array, Tokenizer]:
    """Reads a model's tokenizer and its token table [V, D], but no other weights.

    Raises ValueError or OSError for bad input.
    """
    opened, tokenizer = open_model(settings.model, variant=Variant.of(settings))
    table = {TOKEN_TABLE: opened.tensors["text_encoder"][TOKEN_TABLE]}
    return token_table(opened._replace(tensors={"text_encoder": table}).read(jnp.float32).params), tokenizer


def whole_words(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the model's tokens that are whole words, with their ids.

    A token is a whole word if it consists of two or more letters from a to z, and ends a word.
    """
    vocabulary = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    return {token[: -len("</w>")]: i for token, i in vocabulary if re.fullmatch("[a-z]{2,}</w>", token)}


def kinds(settings: Settings) -> dict[str, str]:
    """Returns the kind of each word on the word lists that `settings` names. Words that are on no list are left out."""
    found: dict[str, str] = {}
    for name, kind in (("stop_words", STOP), ("verbs", VERB), ("prepositions", PREPOSITION)):
        try:
            listed = words.load(getattr(settings, name))
        except (ValueError, OSError) as error:
            warn(f"{error}: using the package's list {name} instead")
            listed = words.packaged(name)
        found |= dict.fromkeys(listed, kind)
    return found


def kept(whole: Mapping[str, int], kind_of: Mapping[str, str]) -> list[str]:
    """Returns the words to show in a picture: prepositions and verbs, then the most frequent other words.

    CLIP numbers its tokens by frequency, so the words with the lowest ids are the most frequent words.
    """
    listed = [word for word in whole if kind_of.get(word) in (PREPOSITION, VERB)]
    return listed + [word for word in whole if kind_of.get(word) not in (PREPOSITION, VERB)][:_OTHERS]
