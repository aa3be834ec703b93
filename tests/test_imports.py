"""Holds the house's storeys: a file imports only from lower storeys or from its own folder."""

import ast
import re
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "reversion_jax"
# By file or folder; the longest match counts.
STOREYS = {
    "errors": 0,
    "compilation": 0,
    "files": 0,
    "intervals": 0,
    "tables": 1,
    "shapes": 0,
    "config": 0,
    "tokenizer": 0,
    "models": 1,
    "diffusion": 1,
    "parallel": 1,
    "weights": 2,
    "inversion": 2,
    "inversion.step": 3,
    "data": 2,
    "data.batches": 3,
    "generate": 3,
    "pictures": 3,
    "notebook": 3,
    "embeddings": 3,
    "clip_features": 3,
    "scores": 3,
    "checkpoints": 3,
    "fit": 4,
    "fine_tuning": 5,
    "dreambooth": 8,
    "user_study": 3,
    "miniature": 5,
    "miniature.drawing": 2,
    "miniature.scenes": 2,
    "miniature.vocabulary": 3,
    "miniature.judge": 3,
    "job": 4,
    "report": 5,
    "loop": 6,
    "cells": 6,
    "evaluation": 7,
    "train": 8,
    "sample": 8,
    "evaluate": 8,
    "export": 8,
    "score": 8,
    "study": 8,
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def storey(name: str) -> int:
    parts = name.split(".")
    known = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(STOREYS[name] for name in known if name in STOREYS)


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, by their path below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            below = name.removeprefix("reversion_jax.").split(".")
            if name.startswith("reversion_jax.") and (ROOT.joinpath(*below).with_suffix(".py")).is_file():
                found.add(".".join(below))
    return found


@pytest.mark.parametrize("path", FILES, ids=module)
def test_storeys(path):
    mine = module(path)
    for other in imports(path):
        same_folder = "." in mine and mine.split(".")[0] == other.split(".")[0]
        assert storey(other) < storey(mine) or same_folder, f"{mine} imports {other} from above"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_nothing_imports_a_command(path):
    assert not {name for name in imports(path) if storey(name) == 8}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_only_commands_define_flags(path):
    """Where a module is imported: what stands under `if __name__ == "__main__"` is a command too."""
    statements = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.If)]
    assert storey(module(path)) == 8 or "flags.DEFINE" not in "".join(map(ast.unparse, statements))


def test_every_file_has_a_storey():
    assert len({module(path): storey(module(path)) for path in FILES}) == len(FILES) > 20


def test_runtime_needs_no_torch():
    sources = "\n".join(path.read_text() for path in FILES)
    assert not re.search(r"(import|from) (torch|diffusers|tensorflow)\b", sources)
