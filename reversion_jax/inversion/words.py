"""Word lists: relation words that the control loss steers towards, and stop words that it never uses as negatives."""

import functools
import os
from importlib import resources
from pathlib import Path

NAMES = ("prepositions", "verbs", "stop_words", "miniature_prepositions", "miniature_verbs")


def load(name_or_path: str | os.PathLike) -> tuple[str, ...]:
    """Reads a packaged list (one of `NAMES`) or a file. Each line has one word; `#` starts a comment.

    Returns the words in the order of the file, in lower case, as CLIP's tokenizer reads them. Raises FileNotFoundError
    if the argument is neither a packaged list nor a file. Raises ValueError for a list without words, for a file that
    is not UTF-8 text, and, with the number of the line, for a phrase or a repeated word. Words must not repeat, because
    positives are drawn without replacement.
    """
    if name_or_path in NAMES:
        return packaged(str(name_or_path))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"word list {str(path)!r}: no such file: give a file, or one of {', '.join(NAMES)}")
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"word list {str(path)!r}: not UTF-8 text ({error.reason}): save it as UTF-8") from error


@functools.cache
def packaged(name: str) -> tuple[str, ...]:
    """Returns a list that comes with the package. Each list is read from disk once."""
    text = resources.files(__package__).joinpath("word_lists", f"{name}.txt").read_text(encoding="utf-8")
    return _parse(text, name)


def _parse(text: str, origin: str) -> tuple[str, ...]:
    """Returns the words of a list in lower case. Error messages name `origin` and the number of the line."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if len(word.split()) > 1:
            raise ValueError(f"word list {origin!r}, line {number}: {word!r} is a phrase: write one word per line")
        if word in lines:
            raise ValueError(f"word list {origin!r}, line {number}: {word!r} is also on line {lines[word]}: keep one")
        lines[word] = number
    if not lines:
        raise ValueError(f"word list {origin!r}: it contains no words: write one word per line")
    return tuple(lines)
