"""Builds the miniature model's tokenizer: a byte-level BPE in CLIP's file format.

Every word of the captions is one token.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from reversion_jax.miniature import scenes

# Words that users write around two entities, in addition to the words of the captions.
_OTHER_WORDS = "a an the and of photo picture drawing to at from through between behind front small big plain"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Returns every word that the tokenizer must know as one token, sorted."""
    phrases = [*scenes.COLOURS, *scenes.SHAPES, _OTHER_WORDS, scenes.HATCHED.removeprefix(", ")]
    for direct, inverse in scenes.CAPTIONS.values():
        phrases += [*direct, *inverse]
    return sorted({word for phrase in phrases for word in phrase.split()})


def _merges() -> list[tuple[str, str]]:
    """Returns the BPE merges that turn each word into one token, in the order in which they are applied."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    trainer = trainers.BpeTrainer(vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(words(), trainer)
    return [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]


def write(folder: Path, length: int) -> int:
    """Writes vocab.json, merges.txt and tokenizer_config.json to `folder`; returns the number of tokens.

    length: the maximum number of tokens in a prompt. The ids have the same order as CLIP's: bytes, bytes at the end of
    a word, merges, start of text, end of text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges()
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ValueError("two merges of the miniature's vocabulary make the same token")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "model_max_length": length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(tokens)
