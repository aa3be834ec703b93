"""Word lists: relation words that the control loss steers towards, and words that it never pushes away."""

import functools
import os
from importlib import resources
from pathlib import Path

NAMES = ("prepositions", "verbs", "stop_words", "miniature_prepositions", "miniature_verbs")


def load(name_or_path: str | os.PathLike) -> tuple[str, ...]:
    """Reads one of the packaged lists (`NAMES`) or a file: one word a line, `#` starts a comment.

    Words come back in the file's order, lower case, as CLIP's tokenizer reads them. ValueError, naming the
    line, for a phrase or a word listed twice (positives are drawn without replacement), and for a list
    without words or not in UTF-8; FileNotFoundError for what is neither a packaged list nor a file.
    """
    if name_or_path in NAMES:
        return packaged(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"word list {str(path)!r}: no such file, and not one of {', '.join(NAMES)}")
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"word list {str(path)!r}: not UTF-8 text ({error.reason})") from error


@functools.cache
def packaged(name: str) -> tuple[str, ...]:
    """A list that ships with the package, read once."""
    text = resources.files(__package__).joinpath("word_lists", f"{name}.txt").read_text(encoding="utf-8")
    return _parse(text, name)


def _parse(text: str, origin: str) -> tuple[str, ...]:
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if len(word.split()) > 1:
            raise ValueError(f"word list {origin!r}, line {number}: {word!r} is a phrase; write one word a line")
        if word in lines:
            raise ValueError(f"word list {origin!r}, line {number}: {word!r} already stands on line {lines[word]}")
        lines[word] = number
    if not lines:
        raise ValueError(f"word list {origin!r}: no words in it; write one word a line")
    return tuple(lines)
