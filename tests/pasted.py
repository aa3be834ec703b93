"""Collects the commands that README and the other pages show in blocks of code and in sentences.

Every line of a block that is fenced as shell is a command. A block that is indented, or fenced without a language, may
contain anything, so only its lines that begin with a program in OURS or FOREIGN are commands.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from config_files import load
from places import ROOT

from reversion_jax.__main__ import COMMANDS
from reversion_jax.config import MINIATURE
from reversion_jax.runtime import files

PAGES = (
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
)
SHELLS = ("sh", "shell", "bash", "console")
OURS = ("python", "pip", "pytest", "launch")
# Tools that are not part of this project. The tests do not check the arguments of these tools.
FOREIGN = ("cd", "cp", "export", "git", "hf", "ls", "mkdir", "source", "tensorboard", "wandb", "uv", "ruff", "mypy")
# With these settings, training the miniature model takes seconds.
FEW = {
    "steps": 2,
    "steps_per_dispatch": 1,
    "checkpoint_every_steps": 1,
    "preview_every_steps": 2,
    "preview_prompts": ("red circle <R> blue star",),
    "sample_steps": 2,
    "judged_prompts": 0,
}
_OPERATORS = ("&&", "||", ";", "|", "&")


class Shown(NamedTuple):
    """A command that a page shows."""

    page: str
    words: tuple[str, ...]  # the program comes first, as "python" for any path of Python

    @property
    def command(self) -> str:
        """The name of our command, such as "train", or "" for other programs and for `python -m reversion_jax`."""
        module = self.words[2] if self.words[:2] == ("python", "-m") and len(self.words) > 2 else ""
        return module.partition(".")[2] if module.startswith("reversion_jax.") else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words after `python -m reversion_jax.COMMAND`."""
        return self.words[3:]


def in_blocks() -> list[Shown]:
    """Returns the commands of all blocks, page by page. Raises ValueError if a shell block has an unknown program."""
    found = []
    for page in PAGES:
        for language, block in blocks(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                is_shell = language in SHELLS
                if is_shell or (not language and _program(line) in (*OURS, *FOREIGN)):
                    found += [Shown(_name(page), words) for words in statements(line, _name(page))]
    return found


def in_sentences() -> list[Shown]:
    """Returns the commands between backticks, such as `python -m reversion_jax.train --config configs/hug.py`."""
    return [
        Shown(_name(page), words)
        for page in PAGES
        for span in spans(page.read_text())
        if re.match(r"python -m reversion_jax\.[a-z]+ ", span)
        for words in statements(span, _name(page))
    ]


def settings() -> list[tuple[str, str]]:
    """Returns (page, flag) of each setting between backticks, such as `--config.steps=1000 --config.remat=True`."""
    found = [(_name(page), span) for page in PAGES for span in spans(page.read_text())]
    return [
        (page, word)
        for page, span in found
        if re.match(r"--config\.[a-z]", span)
        for word in shlex.split(span)
        if word.startswith("--config.")
    ]


def flags() -> list[tuple[str, str, str]]:
    """Returns (page, command, flag) of each flag between backticks after its command, such as `sample --steps 20`."""
    return [
        (_name(page), span.split()[0], name)
        for page in PAGES
        for span in spans(page.read_text())
        if span.split()[0] in COMMANDS
        for name in re.findall(r" --([a-z_]+)", span)
    ]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yields the language, or "" if none is named, and the text of each block of code in a Markdown text."""
    lines = text.splitlines()
    block: list[str] = []
    fence, was_blank = None, True
    for line in [*lines, "end"]:
        if fence is not None:
            if line.strip() == "```":
                yield fence, "\n".join(block)
                fence, block = None, []
            else:
                block.append(line.strip())
        elif line.startswith("    ") and (was_blank or block):
            block.append(line[4:])
        elif line.strip() or not block:
            if block:
                yield "", "\n".join(block)
                block = []
            if opened := re.match(r" *```(\S*)", line):
                fence = opened[1]
        was_blank = not line.strip()


def spans(text: str) -> list[str]:
    """Returns the texts between single backticks in a Markdown text, without its fenced blocks."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()).replace("\\|", "|") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def statements(line: str, page: str) -> list[tuple[str, ...]]:
    """Returns the commands of a line of shell. Raises ValueError, which names the page, if a program is unknown."""
    lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _OPERATORS:
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):  # leaves out variables that are set before a command
            found[-1].append(word)
    commands = []
    for words in filter(None, found):
        program = _program(words[0])
        if program not in (*OURS, *FOREIGN):
            raise ValueError(
                f"{page}: {words[0]!r} is none of the programs in tests/pasted.py: add it, or fence the block"
            )
        if program == "python":  # splits --flag=value into two words, except for settings
            words = [part for word in words for part in (word.split("=", 1) if re.match(r"--\w+=", word) else [word])]
        commands.append(tuple(words) if program == "launch" else (program, *words[1:]))
    return commands


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _program(line: str) -> str:
    """Returns the program that a line of shell starts, which is "python" for .venv/bin/python and python3."""
    words = [word for word in line.removeprefix("$ ").split() if not re.match(r"[A-Z_]+=", word)]
    first = words[0] if words else ""
    return "launch" if first.startswith("launch/") else first.rpartition("/")[2].removesuffix("3")


def shortened(shown: Shown, made: set[str], place: Path) -> tuple[str, ...] | None:
    """Returns the command with few steps if the command can run in the folder `place`, and else None.

    A command can run if its model is the miniature model, and if the files that the command reads are in `place`, or in
    `made`, the workdirs of earlier commands. The workdir of a training command is added to `made`. So no command runs
    that needs a download, an accelerator, a hub or a file of the reader's. The app, which does not end, and
    comparisons, which take minutes, do not run either.
    """
    words, given = shown.words, _given(shown.arguments)
    made_before = lambda name: any(name == run or name.startswith(f"{run}/") for run in made)
    if shown.command == "train":
        file = given.get("--config", "")
        name = file.removeprefix("configs/").removesuffix(".py")
        if "--distributed" in given or given.get("--config.model", load(name).model) != MINIATURE:
            return None
        made.add(given.get("--workdir", files.default_workdir(file)))
        return (*words, *(f"--config.{key}={value}" for key, value in FEW.items()))
    if shown.command not in ("sample", "inspect", "export", "score") or {"--clip", "--push_to_hub"} & given.keys():
        return None
    source = given.get("--workdir") or (shown.arguments[0] if shown.command == "inspect" else "")
    reads = [
        given[flag].rpartition("=")[2]
        for flag in ("--embedding", "--init_image", "--pictures", "--prompts_file")
        if flag in given
    ]
    if not made_before(source) or not all((place / name).exists() for name in reads):
        return None
    if "--step" in given:  # the shortened run has other checkpoints than the page says
        at = words.index("--step")
        words = (*words[:at], "--step", "1", *words[at + 2 :])
    if shown.command == "sample" and "--interpolate" not in given:
        words = (*words, "--num_images", "1")
    draws = shown.command == "sample" or "--prompt" in given
    return (*words, "--steps", "2") if draws else words


def _given(arguments: tuple[str, ...]) -> dict[str, str]:
    """Returns {flag: value} of a command line. If a flag is repeated, the last value counts."""
    found = {}
    for word, following in itertools.pairwise((*arguments, "--")):
        if word.startswith("--"):
            name, has_value, value = word.partition("=")
            found[name] = value if has_value else "" if following.startswith("--") else following
    return found
