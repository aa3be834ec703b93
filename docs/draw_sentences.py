"""Draws sentences from the whole repository, so that a new reader can judge whether each is understood at once.

    python docs/draw_sentences.py --count 60 --seed $(git rev-parse HEAD)

The sentences come from comments, docstrings, error messages, names of tests, README and docs. The seed is a
commit, so that nobody chooses the sentences. Every sentence has the same probability.
"""

import argparse
import ast
import io
import random
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
Found = tuple[str, str]  # where, text


def of_text(where: str, text: str) -> Iterator[Found]:
    """Splits prose into sentences. Code, tables and headings are left out."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    prose = [line for line in text.splitlines() if not re.match(r"\s*([|#]|!\[|:::|\(.*\)=)|    ", line)]
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", "\n".join(prose)):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`<*])", " ".join(paragraph.split())):
            if len(sentence.split()) >= 4:
                yield where, sentence


def of_comments(path: Path, source: str) -> Iterator[Found]:
    """Yields comments: a comment beside code with its code line, and consecutive comment lines as one text."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, comment = token.start[0], token.string.lstrip("# ")
        if token.line[: token.start[1]].strip():
            if len(comment.split()) >= 4:
                yield f"{path}:{line}", token.line.strip()
        elif line == last + 1:
            block, last = [*block, comment], line
        else:
            yield from of_text(f"{path}:{first}", " ".join(block))
            block, first, last = [comment], line, line
    yield from of_text(f"{path}:{first}", " ".join(block))


def of_code(path: Path, source: str) -> Iterator[Found]:
    """Yields a module's docstrings, error messages, comments, and names of tests."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (doc := ast.get_docstring(node)):
            yield from of_text(f"{path}:{getattr(node, 'lineno', 1)}", doc)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{path}:{node.lineno}", node.name
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for message in node.exc.args[:1]:
                yield f"{path}:{node.lineno}", ast.unparse(message)
    yield from of_comments(path, source)


def everything() -> list[Found]:
    """Returns all sentences of the files that git knows."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found: list[Found] = []
    for path in map(Path, names):
        if path.suffix == ".py":
            found += of_code(path, (ROOT / path).read_text())
        if path.suffix == ".md":
            found += of_text(str(path), (ROOT / path).read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="number of sentences")
    parser.add_argument("--seed", required=True, help="hash of a commit")
    options = parser.parse_args()
    found = everything()
    for number, place in enumerate(random.Random(options.seed).sample(range(len(found)), options.count), start=1):
        where, sentence = found[place]
        # In its file, a reader has read the sentence before.
        before = f"(after: {found[place - 1][1]}) " if place and found[place - 1][0] == where else ""
        print(f"{number}. [{where}] {before}{sentence}")


if __name__ == "__main__":
    main()
