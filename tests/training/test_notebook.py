"""Runs the notebooks from top to bottom.

    pytest -m colab -s tests/training/test_notebook.py

The command above makes a Python environment with the package versions of Colab's TPU runtime. The notebooks and the
test suite then run in this environment. The command uses Python 3.13 if it is installed, and takes ten minutes.
"""

import ast
import base64
import dataclasses
import importlib
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tiny
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from places import ROOT, copy_source, runs
from safetensors.numpy import load_file

from reversion_jax.data import exemplars
from reversion_jax.drawing import pictures, public
from reversion_jax.miniature import scenes
from reversion_jax.runs import history
from reversion_jax.training import notebook

LEARN, DRAW, TOUR = NAMES = "learn_a_relation", "draw_and_edit", "how_relation_inversion_works"
SETTINGS = {
    "steps_per_dispatch": 2,
    "checkpoint_every_steps": 2,
    "preview_every_steps": 2,
    "sample_steps": 2,
    "judged_prompts": 0,
}

# Settings with which the notebooks draw_and_edit and how_relation_inversion_works run quickly. The word is hardly
# trained, so the pictures show nothing, but every cell runs.
DRAWS_LITTLE = {
    "SEEDS": 2,
    "STRENGTHS": (0.5, 1.0),
    "FRAMES": 3,
    "SETTINGS": {"sample_steps": 2},
    "TRAINING": SETTINGS | {"steps": 2, "checkpoint_every_steps": 1},
    "WORKDIR": "drive/drawn",
}
TRAINS_LITTLE = {
    "LOOK_AT": (0, 1, 2),
    "PAIRS": 2,
    "SETTINGS": {"checkpoint_every_steps": 1},
    "SAMPLING": {"num_steps": 2},
    "WORKDIR": "drive/tour",
}

# Environment variables of a Python interpreter that must import packages only from its own environment.
NOTHING_ELSE = {**tiny.environment(), "PYTHONPATH": ""}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(name: str) -> dict[str, nbformat.NotebookNode]:
    """Returns a notebook's code cells by id."""
    return {cell.id: cell for cell in read(name).cells if cell.cell_type == "code"}


def run(
    name: str, place: Path, python: str, environment: Mapping[str, str], **settings
) -> dict[str, nbformat.NotebookNode]:
    """Runs a notebook with `python` in the folder `place`. Returns the notebook's code cells by id, with outputs.

    `settings` override variables of the cell with the tag "parameters".
    """
    book = read(name)
    (first,) = (i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", []))
    changes = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    book.cells.insert(first + 1, nbformat.v4.new_code_cell(changes, id="changes"))
    kernel = place / "jupyter" / "kernels" / "tested" / "kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "tested", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(place / "jupyter"))
        client = NotebookClient(book, timeout=600, kernel_name="tested", resources={"metadata": {"path": str(place)}})
        client.execute(env={**environment, "IPYTHONDIR": str(place / "ipython")})
    return {cell.id: cell for cell in book.cells if cell.cell_type == "code"}


def train(place: Path, python: str, environment: Mapping[str, str], steps: int, **settings) -> dict:
    """Runs the notebook that learns a relation, for `steps` steps, and returns its code cells.

    Checks that the notebook shows the preview, the contact sheet and the plot of the run.
    """
    settings = settings | {"RELATION": "on", "WORKDIR": "drive/run", "SETTINGS": SETTINGS | {"steps": steps}}
    cells = run(LEARN, place, python, environment, **settings)
    names = f"previews/step_{steps:06d}.png", "contact_sheet.png", "training.png"
    assert shown(cells["train"]) == [(place / "drive" / "run" / name).read_bytes() for name in names]
    return cells


def check(workdir: Path, cells: dict[str, nbformat.NotebookNode]) -> None:
    """Checks the folder and the notebook's cells of a run that was resumed after two steps for two more steps."""
    assert "resumed at step 2 of 4" in text(cells["train"])
    assert [record["step"] for record in history.read(workdir / "metrics.jsonl")] == [1, 2, 3, 4]
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == ["000", "001"]
    assert len(list((workdir / "samples" / "001").glob("00*.png"))) == 2 * 8
    (grid,) = shown(cells["draw"])
    assert Image.open(io.BytesIO(grid)).text["prompts"] == "red circle <R> blue star\nblue star <R-inv> <R> red circle"
    with zipfile.ZipFile(workdir / "on.zip") as archive:
        assert sorted(archive.namelist()) == ["learned_embeds.bin", "on-inv.safetensors", "on.safetensors"]
    rows = [load_file(workdir / "embeddings" / f"on{end}.safetensors") for end in ("", "-inv")]
    assert np.abs(rows[0]["<R>"] - rows[1]["<R-inv>"]).max() > 1e-3  # both words started from the same word


def check_drawn(cells: dict[str, nbformat.NotebookNode]) -> None:
    """Checks what the notebook *Draw and edit* shows with the settings DRAWS_LITTLE."""
    assert "<R>, <R-inv> for miniature" in text(cells["read"])
    for name, rows in {"draw": 3, "edit": 2, "start": None, "map": None, "attention": None}.items():
        (picture,) = shown(cells[name])
        if rows:  # the height of a contact sheet tells its number of rows
            assert Image.open(io.BytesIO(picture)).height == sheet_height(rows), name
    (output,) = (output for output in cells["animate"].outputs if output.output_type == "execute_result")
    assert output.data["text/html"].count("data:image/webp") == 2
    stops = re.findall(r"^ +(\d+) +\d\.\d{3} ", text(cells["describe"]), re.MULTILINE)
    assert stops == ["0", "1", "2"] * 2  # the steps of the paths of <R> and <R-inv>


def sheet_height(rows: int) -> int:
    blank = [("", np.zeros((2, 8, 8, 3), np.uint8), ["", ""])] * rows
    return pictures.contact_sheet("", blank).height


def check_tour(cells: dict[str, nbformat.NotebookNode]) -> None:
    """Checks what the notebook *How relation inversion works* shows with the settings TRAINS_LITTLE."""
    figures = "exemplars suppressor spectra response noise timesteps steering control follow map draw inverse ablation"
    for name in (*figures.split(), "counts"):
        assert len(shown(cells[name])) == 1, name
    assert "256 numbers, trained" in text(cells["model"])
    assert "a photo of stone <R-inv> <R> cat, on the beach" in text(cells["prompts"])
    assert 'may end at "in"' in text(cells["fault"])
    assert [line.split()[0] for line in text(cells["nearest"]).splitlines()] == ["with", "without"]


def imitate_colab(place: Path) -> None:
    """Writes fake modules of Colab into `place`: a Drive that prints when it is mounted, and uploads of exemplars."""
    images, templates = scenes.exemplars("on", 4, seed=1)
    exemplars.write_folder(place / "browser", images, templates)
    modules = {
        "output": "",  # JAX imports it
        "drive": "def mount(path): print(f'mounted {path}')",
        "files": f"""
            import shutil

            def upload(): shutil.copytree({str(place / "browser")!r}, ".", dirs_exist_ok=True)
            def download(path): print(f"downloaded {{path}}")
        """,
    }
    for name, source in modules.items():
        path = place / "google" / "colab" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))


def text(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: nbformat.NotebookNode) -> list[bytes]:
    """Returns the PNGs that a cell shows."""
    data = (output.get("data", {}) for output in cell.outputs)
    return [base64.b64decode(entry["image/png"]) for entry in data if "image/png" in entry]


@pytest.mark.long
def test_the_learning_notebook_runs_and_resumes_its_run(tmp_path):
    """The notebook first starts a run as on any machine and then resumes the run as on Colab."""
    first = train(tmp_path, sys.executable, tiny.environment(), steps=2)
    imitate_colab(tmp_path)
    cells = train(tmp_path, sys.executable, tiny.environment(), steps=4)
    check(tmp_path / "drive" / "run", cells)
    for cell, says in (("install", "mounted /content/drive"), ("export", "downloaded ")):
        assert says in text(cells[cell])
        assert says not in text(first[cell])
    assert not (tmp_path / "constraints.txt").exists()  # the package is installed, so the notebook installs nothing


@pytest.mark.long
def test_the_notebook_draw_and_edit_runs(tmp_path):
    check_drawn(run(DRAW, tmp_path, sys.executable, tiny.environment(), **DRAWS_LITTLE))


@pytest.mark.long
def test_the_notebook_how_relation_inversion_works_runs(tmp_path):
    check_tour(run(TOUR, tmp_path, sys.executable, tiny.environment(), **TRAINS_LITTLE))


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_stored_without_outputs(name):
    assert not any(cell.outputs or cell.execution_count for cell in code(name).values())


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(NAMES)


def test_all_notebooks_install_the_package_in_the_same_way():
    assert len({code(name)["install"].source for name in NAMES}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_a_notebook_imports_exists(name):
    """The attributes of this package's modules that a notebook uses must exist too. The test runs no cell."""
    source = "\n".join(cell.source for cell in code(name).values())
    tree = ast.parse(re.sub(r"^( *)%.*", r"\1pass", source, flags=re.MULTILINE))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: importlib.import_module(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != "google.colab":
            for alias in node.names:
                modules[alias.asname or alias.name] = found(node.module, alias.name)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    used = [(modules[node.value.id], node.attr) for node in used if node.value.id in modules]
    ours = [(module, attribute) for module, attribute in used if "reversion_jax" in getattr(module, "__name__", "")]
    assert ours
    assert [f"{module.__name__}.{attribute}" for module, attribute in ours if not hasattr(module, attribute)] == []


def found(module: str, name: str):
    """Returns what `from module import name` gives. Raises ImportError if the module has no `name`."""
    package = importlib.import_module(module)
    return getattr(package, name) if hasattr(package, name) else importlib.import_module(f"{module}.{name}")


def test_animations_run_forward_and_back_and_escape_their_titles():
    """The first and the last frame are shown only once when the animation turns back."""
    images = np.linspace(-1, 1, 4, dtype=np.float32)[:, None, None, None] * np.ones((4, 16, 16, 3), np.float32)
    shown_html = notebook.animations({"a <R> b": images}, width_px=99).data
    assert "a &lt;R&gt; b" in shown_html
    assert 'width="99"' in shown_html
    clip = Image.open(io.BytesIO(base64.b64decode(shown_html.split("base64,")[1].split('"')[0])))
    levels, shown_ms = [], []
    for number in range(clip.n_frames):
        clip.seek(number)
        levels.append(np.asarray(clip.convert("RGB")).mean())
        shown_ms.append(clip.info["duration"])
    np.testing.assert_allclose(levels, [0, 85, 170, 255, 170, 85], atol=3)
    assert shown_ms == [120] * 6  # a repeated frame would be shown for 240 ms


@pytest.mark.parametrize("inverse", [False, True])
def test_draw_and_judge_counts_right_relations_and_hatched_pictures(inverse, monkeypatch):
    """A fake model draws unseen pairs as asked, except for one wrong relation, and hatches some pictures."""
    asked = scenes.unseen_scenes("hanging_from", 6, seed=1)
    hatched = [False, True, True, False, False, True]
    given = {}

    def draw(model, texts, words, **sampling):
        given.update(texts=texts, words=words, **sampling)
        drawn = [dataclasses.replace(scene, hatched=style) for scene, style in zip(asked, hatched, strict=True)]
        drawn[0] = dataclasses.replace(drawn[0], relation="beside")
        return np.stack([scenes.draw(scene, np.random.default_rng(0)) for scene in drawn]) / np.float32(127.5) - 1

    monkeypatch.setattr(public, "draw", draw)
    judged = notebook.draw_and_judge(None, {"<R>": None}, "hanging_from", 6, inverse=inverse, num_steps=3)
    first = asked[0]
    wanted = f"{first.object} <R-inv> <R> {first.subject}" if inverse else f"{first.subject} <R> {first.object}"
    assert given["texts"][0] == wanted
    assert (given["words"], given["num_steps"]) == ({"<R>": None}, 3)
    assert judged.relation.tolist() == [False] + 5 * [True]
    assert judged.leaked.tolist() == hatched
    assert str(judged) == "relation right 5, both entities right 6, all right 5, hatched 3 of 6"
    assert judged.captions[1] == f"{asked[1].subject} hanging from {asked[1].object}"


@pytest.fixture
def browser(monkeypatch):
    """Imitates an upload in Colab. Returns a dictionary of the files {name: content} that the user will upload."""
    ready = {}
    upload = lambda: [Path(name).write_bytes(content) for name, content in ready.items()]
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=types.SimpleNamespace(upload=upload)))
    return ready


def test_uploaded_exemplars_become_a_folder(browser, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    browser["0.png"] = picture.getvalue()
    folder, captions = tmp_path / "run" / "exemplars", {"0.png": ["cat {} dog"]}
    with pytest.raises(FileNotFoundError, match=r"text\.json: missing"):
        notebook.upload_exemplars(folder, {})
    with pytest.raises(FileNotFoundError, match=r"1\.png: missing"):
        notebook.upload_exemplars(folder, captions | {"1.png": ["cat {} dog"]})
    assert not list(folder.parent.iterdir())
    assert notebook.upload_exemplars(folder, captions) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "text.json"]
    browser.clear()
    assert notebook.upload_exemplars(folder, {}) == folder  # the folder exists, so no upload is asked for
    browser |= {"0.png": picture.getvalue(), "text.json": json.dumps(captions).encode()}
    notebook.upload_exemplars(tmp_path / "other", {})
    assert (tmp_path / "other" / "text.json").read_bytes() == browser["text.json"]


def test_uploading_exemplars_is_refused_outside_colab(tmp_path):
    with pytest.raises(ValueError, match="only be uploaded on Colab"):
        notebook.upload_exemplars(tmp_path / "exemplars", {})


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> str:
    """The path of a Python with the relevant packages of Colab's TPU runtime, without this package."""
    python = "python3.13" if runs("python3.13") else sys.executable
    place = tmp_path_factory.mktemp("colab")
    subprocess.run([python, "-m", "venv", place], check=True)
    install = [place / "bin" / "python", "-m", "pip", "install", "-q", "-r", ROOT / "tests" / "colab_runtime.txt"]
    subprocess.run(install, check=True)
    return str(place / "bin" / "python")


def versions(python: str) -> dict[str, str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True).stdout
    return {package["name"]: package["version"] for package in json.loads(listed)}


@pytest.mark.colab
def test_the_notebook_installs_nothing_that_would_change_colabs_jax(colab, tmp_path):
    """The fake package of this test needs a newer JAX. The next test, which installs reversion_jax, must run later."""
    project = """
        [project]
        name = "reversion_jax"
        version = "1"
        dependencies = ["jax>0.7.2"]
        [tool.setuptools]
        packages = []
    """
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyproject.toml").write_text(textwrap.dedent(project))
    before = versions(colab)
    with pytest.raises(CellExecutionError, match="nothing installed"):
        run(LEARN, tmp_path, colab, NOTHING_ELSE, WORKDIR="run", PACKAGE=str(tmp_path / "other"))
    assert versions(colab) == before


@pytest.mark.colab
def test_the_notebooks_install_the_package_and_run_on_colab(colab, tmp_path):
    before = versions(colab)
    imitate_colab(tmp_path)
    package = str(copy_source(tmp_path / "repository"))
    for steps in (2, 4):
        cells = train(tmp_path, colab, NOTHING_ELSE, steps, PACKAGE=package, EXEMPLARS="upload")
    check(tmp_path / "drive" / "run", cells)
    assert (tmp_path / "drive" / "run" / "exemplars" / "3.png").is_file()
    check_drawn(run(DRAW, tmp_path, colab, NOTHING_ELSE, PACKAGE=package, **DRAWS_LITTLE))
    check_tour(run(TOUR, tmp_path, colab, NOTHING_ELSE, PACKAGE=package, **TRAINS_LITTLE))
    after = versions(colab)
    print("installed:", {name: after[name] for name in after.keys() - before.keys()})
    assert before.items() <= after.items()
    assert "reversion_jax" in after.keys() - before.keys()


@pytest.mark.colab
def test_the_suite_passes_on_colab(colab):
    # The tests need these packages besides those of tests/colab_runtime.txt.
    needed = ["hypothesis", "ml_collections", "pytest-xdist", "scikit-learn", "tensorboardX"]
    subprocess.run([colab, "-m", "pip", "install", "-q", *needed], check=True)
    # The suite leaves out this file, and test_processes.py, whose processes take minutes.
    left_out = [f"--ignore=tests/training/test_{name}.py" for name in ("notebook", "processes")]
    suite = [colab, "-m", "pytest", "-q", "-p", "no:cacheprovider", *left_out]
    subprocess.run(suite, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
