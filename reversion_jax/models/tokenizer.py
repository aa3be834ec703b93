"""Text <-> token ids: CLIP's tokenizer, and placeholder tokens that stand for trainable rows."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tokenizer:
    """Prompts -> int32 [N, L], as `transformers.CLIPTokenizer` pads them to L = `length`.

    A placeholder with S rows becomes S consecutive ids from V = `vocab_size` on, in the order of
    `rows_per_token`: with {"<R>": 2, "<R-inv>": 1}, <R> is V, V + 1 and <R-inv> is V + 2.
    """

    backend: Any
    vocab_size: int
    length: int
    rows_per_token: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        rows_per_token: Mapping[str, int] | None = None,
        *,
        vocab_size: int,
        length: int,
    ) -> "Tokenizer":
        """Reads a tokenizer folder: vocab.json and merges.txt, or transformers 5's tokenizer.json alone.

        vocab_size, length: rows of the text encoder's token and position tables; the tokenizer's own
        model_max_length can only shorten the latter. ValueError if the folder does not fit them.
        """
        if not has_tokenizer(Path(folder)):
            raise ValueError(f"no tokenizer in {folder}: it has neither vocab.json with merges.txt, nor tokenizer.json")
        with _without_advice():
            from transformers import CLIPTokenizer

            try:
                backend = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            except Exception as error:  # of the tokenizers library, and of JSON
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ValueError(f"cannot read the tokenizer in {folder}: {reason}") from error
        if len(backend) > vocab_size:
            raise ValueError(f"{folder} has {len(backend)} tokens, the text encoder's table only {vocab_size}")
        rows_per_token = dict(rows_per_token or {})
        for token, rows in rows_per_token.items():
            if not token or rows < 1:
                raise ValueError(f"placeholder {token!r} with {rows} rows: need a name and at least one row")
        return cls(backend, vocab_size, min(length, backend.model_max_length), rows_per_token)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Ids of one text or several, int32 [N, L]: start, words, end, padding; cut to L if need be."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        out = np.full((len(texts), self.length), self.backend.pad_token_id, np.int32)
        for row, words in zip(out, self._ids(texts), strict=True):
            ids = [self.backend.bos_token_id, *words[: self.length - 2], self.backend.eos_token_id]
            row[: len(ids)] = ids
        return out

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the start, end, padding and unknown tokens, ascending."""
        return tuple(sorted(set(self.backend.all_special_ids)))

    def placeholder_ids(self, token: str) -> list[int]:
        """Ids of a placeholder's rows."""
        names = list(self.rows_per_token)
        start = self.vocab_size + sum(self.rows_per_token[name] for name in names[: names.index(token)])
        return list(range(start, start + self.rows_per_token[token]))

    @functools.cached_property
    def whole_words(self) -> np.ndarray:
        """Ids int32 of the tokens that are words by themselves: three or more letters a-z, and the end of a word.

        Some are endings, such as "ophobia": CLIP's vocabulary does not tell these from words.
        """
        vocabulary = self.backend.get_vocab().items()
        return np.array(sorted(i for token, i in vocabulary if re.fullmatch("[a-z]{3,}</w>", token)), np.int32)

    def word_ids(self, word: str) -> list[int]:
        """Ids of a word or phrase, without start, end and padding."""
        return self._ids([word])[0]

    def own_ids(self, word: str) -> list[int]:
        """Ids of a word as the model itself reads it, learned or not."""
        return self.backend(word, add_special_tokens=False, verbose=False)["input_ids"]

    def knows(self, token: str) -> bool:
        """Whether the model's own tokenizer has a token of this very name, such as a word learned earlier."""
        return token in self.backend.get_added_vocab() or f"{token}</w>" in self.backend.get_vocab()

    def ids_to_words(self, ids: Sequence[int]) -> list[str]:
        """What each id says, for people to read: a word, the start of one with "-", or a placeholder's name."""
        names = {i: token for token in self.rows_per_token for i in self.placeholder_ids(token)}

        def name(i: int) -> str:
            token = self.backend.convert_ids_to_tokens(i)
            if token is None:  # the table may have more rows than the tokenizer has tokens
                return f"[{i}]"
            return self.backend.decode([i]) + ("" if token.endswith(("</w>", "|>")) else "-")

        return [names[i] if i in names else name(i) for i in map(int, ids)]

    def truncated(self, text: str) -> str | None:
        """The end of `text` that does not fit into L tokens; None if all of it does."""
        room = self.length - 2
        for start, piece in self._pieces(text):
            if piece in self.rows_per_token:
                offsets = [0] * self.rows_per_token[piece]
            else:
                encoded = self.backend(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                offsets = [begin for begin, _ in encoded["offset_mapping"]]
            if len(offsets) > room:
                return text[start + offsets[room] :]
            room -= len(offsets)
        return None

    def _pieces(self, text: str) -> Iterator[tuple[int, str]]:
        """Splits at placeholders, before the backend could lower their case or take them apart."""
        # The longest name first, lest one that starts another be found inside it; "hug" not inside "hugging".
        names = sorted(self.rows_per_token, key=len, reverse=True)
        wholes = [re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(name)) for name in names]
        start = 0
        for piece in re.split(f"({'|'.join(wholes)})", text) if names else [text]:
            yield start, piece
            start += len(piece)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            check_text(text)
        pieces = [[piece for _, piece in self._pieces(text)] for text in texts]
        plain = sorted({piece for text in pieces for piece in text if piece not in self.rows_per_token})
        # One call for all: its overhead is a hundred prompts' work. Verbose would warn of the length.
        encoded = self.backend(plain, add_special_tokens=False, verbose=False)["input_ids"] if plain else []
        known = dict(zip(plain, encoded, strict=True))
        known |= {token: self.placeholder_ids(token) for token in self.rows_per_token}
        return [[i for piece in text for i in known[piece]] for text in pieces]


def check_text(text: str) -> None:
    """ValueError for half a character, a lone surrogate, which no encoding has."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{text!r} holds half a character (a lone surrogate): write it anew")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer, in either of its forms."""
    return any(
        all((folder / name).is_file() for name in form) for form in (("vocab.json", "merges.txt"), ("tokenizer.json",))
    )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps transformers from advising to install PyTorch, when it is first imported."""
    key = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before
