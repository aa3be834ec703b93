"""The rules of the architecture: which file imports which, where flags are defined, how long files may be."""

import ast
import graphlib
from functools import cache
from pathlib import Path

from places import ROOT

PACKAGE = ROOT / "reversion_jax"
COMMANDS = ("train", "sample", "export", "inspect", "app", "evaluate", "score", "study", "dreambooth", "__main__")
# The layers from the lowest to the highest. Each layer has folders, or files of the package's top folder. A file may
# import from lower layers and from its own folder only. So folders in the same layer do not import each other.
LAYERS = (
    ("config",),
    ("runtime", "models", "diffusion"),
    ("inversion",),
    ("data", "weights"),
    ("runs",),
    ("drawing", "miniature"),
    ("training",),
    ("evaluation",),
    COMMANDS,
)
NAMES = {name for names in LAYERS for name in names}
MAX_FOLDERS, MAX_FILE, MAX_COMMAND, MAX_FUNCTION = 11, 250, 60, 60  # the first is a count, the others are in lines
# {name: reason} for each file or function that may exceed the limits. The name of a file is its module, and the name of
# a function is its module and its own name.
LONGER = {"config": "every setting has its own line"}
FOREIGN = {"torch", "diffusers", "tensorflow", "tensorflow_datasets"}
FOREIGN_IN = {"data.benchmark_tfds": {"tensorflow_datasets"}}  # this module defines a data set

# `__init__.py` is left out, because it imports the public names lazily and a separate test checks it.
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
BESIDE = sorted(path for name in ("recipes", "benchmarks", "configs", "launch") for path in (ROOT / name).rglob("*.py"))


def module(path: Path) -> str:
    """Returns the dotted name of a file, relative to the package, or to the repository if outside the package."""
    return ".".join(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix("").parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[str]:
    """Returns the names that a file imports anywhere, also inside functions. `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relative to itself: {ast.unparse(node)}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} - {PACKAGE.name}  # `from reversion_jax import x` imports the module x
    return frozenset(found)


def modules(path: Path) -> set[str]:
    """Returns the modules of the package that a file imports."""
    below = {name.removeprefix("reversion_jax.") for name in imported(path) if name.startswith("reversion_jax.")}
    return {name for name in below if PACKAGE.joinpath(*name.split(".")).with_suffix(".py").is_file()}


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name.split(".")[0] in names)


def is_below(other: str, mine: str) -> bool:
    same_folder = "." in mine and mine.split(".")[0] == other.split(".")[0]
    return layer(other) < layer(mine) or same_folder


def test_files_import_from_lower_layers_only():
    imports = [(module(path), other) for path in FILES for other in modules(path)]
    assert len(imports) > 200
    assert [f"{mine} imports {other}" for mine, other in imports if not is_below(other, mine)] == []


def test_imports_have_no_cycle():
    graph = {module(path): modules(path) for path in FILES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES) > 80


def test_no_file_imports_a_command():
    assert {module(path): commands for path in (*FILES, *BESIDE) if (commands := modules(path) & set(COMMANDS))} == {}


def test_the_package_imports_nothing_from_outside_the_package():
    """No file imports a recipe, a benchmark or a test, or all of `reversion_jax`, which has names of every layer."""
    beside, found = {"recipes", "benchmarks", "configs", "launch", "tests"}, {}
    for path in FILES:
        names = imported(path)
        wrong = {name for name in names if name.split(".")[0] in beside}
        wrong |= {name for name in names if name.startswith("reversion_jax.") and name.split(".")[1] not in NAMES}
        wrong |= names & {PACKAGE.name}
        found |= {module(path): wrong} if wrong else {}
    assert found == {}


def test_public_names_are_the_same_at_run_time_and_for_type_checkers():
    """`__init__.py` has three lists, which must agree: lazy imports, imports for type checkers, and `__all__`."""
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
    assert {name for name, _ in typed.values()} <= {module(path) for path in FILES} - set(COMMANDS)


def test_init_files_of_folders_are_empty():
    inits = [path for path in FILES if path.name == "__init__.py"]
    assert len(inits) >= MAX_FOLDERS
    assert [module(path) for path in inits if tree(path).body] == []


def test_only_commands_define_flags_and_only_when_run_as_programs():
    """Flags are defined under `if __name__ == "__main__"`, so that importing a command defines none."""
    is_program = lambda node: isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    programs = {module(path) for path in FILES if any(map(is_program, tree(path).body))}
    assert programs == set(COMMANDS)
    imported_parts = {module(path): [node for node in tree(path).body if not is_program(node)] for path in FILES}
    assert [name for name, nodes in imported_parts.items() if "DEFINE" in "".join(map(ast.unparse, nodes))] == []


def test_the_top_folder_has_only_commands_and_config():
    inside = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert {path.name for path in inside if path.is_file()} == {
        f"{name}.py" for name in (*COMMANDS, "config", "__init__")
    }
    folders = {path.name for path in inside if path.is_dir()}
    assert folders == NAMES - {*COMMANDS, "config"}
    assert len(folders) <= MAX_FOLDERS


def test_files_and_functions_are_short():
    long = {}
    for path in (*FILES, *(ROOT / "recipes").rglob("*.py")):
        name, count = module(path), len(path.read_text().splitlines())
        if count > (MAX_COMMAND if name in COMMANDS else MAX_FILE):
            long[name] = count
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = node.end_lineno - node.lineno + 1
                if count > MAX_FUNCTION:
                    long[f"{name}.{node.name}"] = count
    assert {name: count for name, count in long.items() if name not in LONGER} == {}
    assert set(LONGER) <= set(long), "no longer too long: take it out of LONGER"


def test_the_package_imports_neither_pytorch_nor_tensorflow():
    found = {module(path): {name.split(".")[0] for name in imported(path)} & FOREIGN for path in FILES}
    assert {name: foreign for name, foreign in found.items() if foreign} == FOREIGN_IN
