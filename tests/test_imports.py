"""Holds the house's rules: who imports whom, where flags are defined, what lies at the top, how long things are."""

import ast
import graphlib
from functools import cache
from pathlib import Path

from places import ROOT

PACKAGE = ROOT / "reversion_jax"
DOORS = ("train", "sample", "export", "inspect", "app", "evaluate", "score", "study", "dreambooth", "__main__")
# From the ground: a file imports from lower storeys and from its own folder alone, so what shares a storey does not
# know of one another. Folders, and the files at the package's top.
STOREYS = (
    ("config",),
    ("runtime", "models", "diffusion"),
    ("inversion",),
    ("data", "weights"),
    ("runs",),
    ("drawing", "miniature"),
    ("training",),
    ("evaluation",),
    DOORS,
)
NAMES = {name for names in STOREYS for name in names}
MAX_FOLDERS, MAX_FILE, MAX_DOOR, MAX_FUNCTION = 11, 250, 60, 60  # the last three in lines
# What may be longer, and why: files by their modules, functions by module and name.
LONGER = {"config": "every setting has a line of its own"}
FOREIGN = {"torch", "diffusers", "tensorflow", "tensorflow_datasets"}
FOREIGN_IN = {"data.benchmark_tfds": {"tensorflow_datasets"}}  # it is a data set of theirs

# `__init__.py` is the public face, which imports when it is asked; see test_the_public_face.
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
BESIDE = sorted(path for name in ("recipes", "benchmarks", "configs", "launch") for path in (ROOT / name).rglob("*.py"))


def module(path: Path) -> str:
    """A file by its path in the package or, where it lies beside the package, in the repository."""
    return ".".join(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix("").parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """All that a file imports anywhere, in functions and for types too; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relative to itself: {ast.unparse(node)}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} - {PACKAGE.name}  # of which only its modules are meant
    return frozenset(found)


def modules(path: Path) -> set[str]:
    """Those of the package's modules that a file imports."""
    below = {name.removeprefix("reversion_jax.") for name in imported(path) if name.startswith("reversion_jax.")}
    return {name for name in below if PACKAGE.joinpath(*name.split(".")).with_suffix(".py").is_file()}


def storey(name: str) -> int:
    return next(number for number, names in enumerate(STOREYS) if name.split(".")[0] in names)


def is_below(other: str, mine: str) -> bool:
    same_folder = "." in mine and mine.split(".")[0] == other.split(".")[0]
    return storey(other) < storey(mine) or same_folder


def test_storeys():
    imports = [(module(path), other) for path in FILES for other in modules(path)]
    assert len(imports) > 200
    assert [f"{mine} imports {other}" for mine, other in imports if not is_below(other, mine)] == []


def test_no_file_imports_itself_by_way_of_others():
    graph = {module(path): modules(path) for path in FILES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES) > 80


def test_nothing_imports_a_door():
    assert {module(path): doors for path in (*FILES, *BESIDE) if (doors := modules(path) & set(DOORS))} == {}


def test_the_package_imports_nothing_that_lies_beside_it():
    """No recipe, benchmark or test; nor `import reversion_jax`, whose names stand for what lies at every storey."""
    beside, found = {"recipes", "benchmarks", "configs", "launch", "tests"}, {}
    for path in FILES:
        names = imported(path)
        wrong = {name for name in names if name.split(".")[0] in beside}
        wrong |= {name for name in names if name.startswith("reversion_jax.") and name.split(".")[1] not in NAMES}
        wrong |= names & {PACKAGE.name}
        found |= {module(path): wrong} if wrong else {}
    assert found == {}


def test_the_public_face():
    """What it imports when it is asked is what it tells type checkers, and what it lists."""
    body = tree(PACKAGE / "__init__.py").body
    (for_types,) = (node for node in body if isinstance(node, ast.If))
    assert ast.unparse(for_types.test) == "TYPE_CHECKING"
    typed = {
        alias.asname: (node.module.removeprefix("reversion_jax."), alias.name)
        for node in for_types.body
        for alias in node.names
    }
    assigned = {ast.unparse(node.targets[0]): node.value for node in body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(assigned["_PUBLIC"]) == typed
    assert set(ast.literal_eval(assigned["__all__"])) == set(typed)
    assert {name for name, _ in typed.values()} <= {module(path) for path in FILES} - set(DOORS)


def test_folders_have_no_face():
    inits = [path for path in FILES if path.name == "__init__.py"]
    assert len(inits) >= MAX_FOLDERS
    assert [module(path) for path in inits if tree(path).body] == []


def test_only_doors_define_flags_and_only_as_programs():
    """They stand under `if __name__ == "__main__"`, so that nothing has them that imports the file."""
    is_program = lambda node: isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    programs = {module(path) for path in FILES if any(map(is_program, tree(path).body))}
    assert programs == set(DOORS)
    imported_parts = {module(path): [node for node in tree(path).body if not is_program(node)] for path in FILES}
    assert [name for name, nodes in imported_parts.items() if "DEFINE" in "".join(map(ast.unparse, nodes))] == []


def test_only_doors_and_the_settings_lie_at_the_top():
    inside = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert {path.name for path in inside if path.is_file()} == {f"{name}.py" for name in (*DOORS, "config", "__init__")}
    folders = {path.name for path in inside if path.is_dir()}
    assert folders == NAMES - {*DOORS, "config"}
    assert len(folders) <= MAX_FOLDERS


def test_files_and_functions_are_short():
    long = {}
    for path in (*FILES, *(ROOT / "recipes").rglob("*.py")):
        name, count = module(path), len(path.read_text().splitlines())
        if count > (MAX_DOOR if name in DOORS else MAX_FILE):
            long[name] = count
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = node.end_lineno - node.lineno + 1
                if count > MAX_FUNCTION:
                    long[f"{name}.{node.name}"] = count
    assert {name: count for name, count in long.items() if name not in LONGER} == {}
    assert set(LONGER) <= set(long), "no longer too long: take it out of LONGER"


def test_neither_pytorch_nor_tensorflow_is_needed():
    found = {module(path): {name.split(".")[0] for name in imported(path)} & FOREIGN for path in FILES}
    assert {name: foreign for name, foreign in found.items() if foreign} == FOREIGN_IN
