"""CLIP's tokenizer, extended by placeholder tokens for trainable rows."""

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
    """Turns prompts into token ids int32 [N, L], padded as `transformers.CLIPTokenizer` pads them.

    A placeholder with S rows becomes S consecutive ids. The ids of all placeholders begin at V = `vocab_size` and
    follow the order of `rows_per_token`: with {"<R>": 2, "<R-inv>": 1}, <R> is V, V + 1 and <R-inv> is V + 2.
    """

    backend: Any  # the transformers.CLIPTokenizer of the model
    vocab_size: int  # V, the number of rows in the text encoder's token table
    length: int  # L, the number of ids per prompt
    rows_per_token: Mapping[str, int] = field(default_factory=dict)  # the number of rows of each placeholder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        rows_per_token: Mapping[str, int] | None = None,
        *,
        vocab_size: int,
        length: int,
    ) -> "Tokenizer":
        """Reads a tokenizer folder, which has vocab.json and merges.txt, or tokenizer.json alone (transformers 5).

        vocab_size, length: the numbers of rows in the text encoder's token and position tables. If the tokenizer's
        model_max_length is smaller than `length`, model_max_length is used instead. Raises ValueError if the folder has
        no readable tokenizer, if the tokenizer has more tokens than the table has rows, or if a placeholder has no name
        or no row.
        """
        if not has_tokenizer(Path(folder)):
            raise ValueError(f"no tokenizer in {folder}: put vocab.json and merges.txt there, or tokenizer.json")
        with _without_advice():
            from transformers import CLIPTokenizer

            try:
                backend = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            except Exception as error:  # the tokenizers library raises plain Exception; reading raises other types
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ValueError(f"cannot read the tokenizer in {folder}: {reason}") from error
        if len(backend) > vocab_size:
            raise ValueError(
                f"{folder} has {len(backend)} tokens, but the text encoder's table has only {vocab_size}: "
                "use the tokenizer of this model"
            )
        rows_per_token = dict(rows_per_token or {})
        for token, rows in rows_per_token.items():
            if not token or rows < 1:
                raise ValueError(f"placeholder {token!r} with {rows} rows: it needs a name and at least one row")
        return cls(backend, vocab_size, min(length, backend.model_max_length), rows_per_token)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Returns the ids of one text or several, int32 [N, L]: start token, words, end token, padding.

        Words that do not fit into L ids are cut off. Raises the same ValueError as `check_text`.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        out = np.full((len(texts), self.length), self.backend.pad_token_id, np.int32)
        for row, words in zip(out, self._ids(texts), strict=True):
            ids = [self.backend.bos_token_id, *words[: self.length - 2], self.backend.eos_token_id]
            row[: len(ids)] = ids
        return out

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of the start, end, padding and unknown tokens, in ascending order."""
        return tuple(sorted(set(self.backend.all_special_ids)))

    def placeholder_ids(self, token: str) -> list[int]:
        """Returns the ids of the rows of a placeholder."""
        names = list(self.rows_per_token)
        start = self.vocab_size + sum(self.rows_per_token[name] for name in names[: names.index(token)])
        return list(range(start, start + self.rows_per_token[token]))

    @functools.cached_property
    def whole_words(self) -> np.ndarray:
        """The ids, int32, of the tokens that end a word and have only letters a-z, at least three of them.

        Most of these tokens are whole words. Some tokens are endings, such as "ophobia", which CLIP's vocabulary does
        not distinguish from words.
        """
        vocabulary = self.backend.get_vocab().items()
        return np.array(sorted(i for token, i in vocabulary if re.fullmatch("[a-z]{3,}</w>", token)), np.int32)

    def word_ids(self, word: str) -> list[int]:
        """Returns the ids of a word or phrase, with placeholders, and without start, end and padding tokens."""
        return self._ids([word])[0]

    def own_ids(self, word: str) -> list[int]:
        """Returns the ids of a word or phrase in the model's own tokenizer, to which placeholders are plain text."""
        return self.backend(word, add_special_tokens=False, verbose=False)["input_ids"]

    def knows(self, token: str) -> bool:
        """Returns whether the model's own tokenizer has a token of exactly this name, such as a learned word."""
        return token in self.backend.get_added_vocab() or f"{token}</w>" in self.backend.get_vocab()

    def ids_to_words(self, ids: Sequence[int]) -> list[str]:
        """Returns a readable text for each id: a word, the beginning of a word with "-", or a placeholder's name."""
        names = {i: token for token in self.rows_per_token for i in self.placeholder_ids(token)}

        def name(i: int) -> str:
            token = self.backend.convert_ids_to_tokens(i)
            if token is None:  # the token table can have more rows than the tokenizer has tokens
                return f"[{i}]"
            return self.backend.decode([i]) + ("" if token.endswith(("</w>", "|>")) else "-")

        return [names[i] if i in names else name(i) for i in map(int, ids)]

    def truncated(self, text: str) -> str | None:
        """Returns the end of `text` that does not fit into L ids, or None if the whole text fits."""
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
        """Splits a text at its placeholders, and yields (position in the text, piece); a placeholder is one piece.

        The text is split before the backend reads it, because the backend would turn placeholders into lower case and
        split them.
        """
        # The longest name comes first, in case one name begins with another name. The word boundaries keep a
        # placeholder "hug" from matching inside "hugging".
        names = sorted(self.rows_per_token, key=len, reverse=True)
        wholes = [re.sub(r"^(?=\w)|(?<=\w)$", r"\\b", re.escape(name)) for name in names]
        start = 0
        for piece in re.split(f"({'|'.join(wholes)})", text) if names else [text]:
            yield start, piece
            start += len(piece)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without start, end and padding tokens.

        Raises the same ValueError as `check_text`.
        """
        for text in texts:
            check_text(text)
        pieces = [[piece for _, piece in self._pieces(text)] for text in texts]
        plain = sorted({piece for text in pieces for piece in text if piece not in self.rows_per_token})
        # All pieces are encoded in one call, because the overhead of a call equals the work for a hundred prompts.
        # verbose=False suppresses a warning about long texts.
        encoded = self.backend(plain, add_special_tokens=False, verbose=False)["input_ids"] if plain else []
        known = dict(zip(plain, encoded, strict=True))
        known |= {token: self.placeholder_ids(token) for token in self.rows_per_token}
        return [[i for piece in text for i in known[piece]] for text in pieces]


def check_text(text: str) -> None:
    """Raises ValueError if a text contains half a character (a lone surrogate), which cannot be encoded as UTF-8."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{text!r} contains half a character (a lone surrogate): type that character again")


def has_tokenizer(folder: Path) -> bool:
    """Returns whether a folder has the files of a tokenizer: vocab.json and merges.txt, or tokenizer.json."""
    return any(
        all((folder / name).is_file() for name in form) for form in (("vocab.json", "merges.txt"), ("tokenizer.json",))
    )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps transformers from advising to install PyTorch when it is first imported."""
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
