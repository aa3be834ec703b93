"""A model's own words, beside which learned ones are looked at: their vectors, and which of them are what."""

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

# Kinds of words. No list tells nouns from adjectives and names, so what is on no list is one of these.
PREPOSITION, VERB, STOP, OTHER, PIECE = "preposition", "verb", "stop word", "noun or other", "part of a word"
_OTHERS = 1500  # words besides prepositions and verbs that `kept` keeps: the most frequent ones


def read_table(settings: Settings) -> tuple[jax.Array, Tokenizer]:
    """A model's token table [V, D] and its tokenizer; of the weights nothing else is read. ValueError, OSError."""
    opened, tokenizer = open_model(settings.model, variant=Variant.of(settings))
    table = {TOKEN_TABLE: opened.tensors["text_encoder"][TOKEN_TABLE]}
    return token_table(opened._replace(tensors={"text_encoder": table}).read(jnp.float32).params), tokenizer


def whole_words(tokenizer: Tokenizer) -> dict[str, int]:
    """The English words among the model's tokens, and their ids: letters alone, two or more, and a word's end."""
    vocabulary = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    return {token[: -len("</w>")]: i for token, i in vocabulary if re.fullmatch("[a-z]{2,}</w>", token)}


def kinds(settings: Settings) -> dict[str, str]:
    """What a word is, by the word lists that steer the run; what they lack may be a noun or anything else."""
    found: dict[str, str] = {}
    for name, kind in (("stop_words", STOP), ("verbs", VERB), ("prepositions", PREPOSITION)):
        try:
            listed = words.load(getattr(settings, name))
        except (ValueError, OSError) as error:
            warn(f"{error}: the package's {name} are marked")
            listed = words.packaged(name)
        found |= dict.fromkeys(listed, kind)
    return found


def kept(whole: Mapping[str, int], kind_of: Mapping[str, str]) -> list[str]:
    """The words for a picture: prepositions, verbs, then frequent others. CLIP's ids ascend as its words get rarer."""
    listed = [word for word in whole if kind_of.get(word) in (PREPOSITION, VERB)]
    return listed + [word for word in whole if kind_of.get(word) not in (PREPOSITION, VERB)][:_OTHERS]
